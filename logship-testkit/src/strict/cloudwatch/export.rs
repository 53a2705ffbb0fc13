//! Export tasks (<https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_CreateExportTask.html>).

use serde_json::{Value, json};

use super::store::{Exported, Store, now};
use super::{Refusal, name, refuse};

/// A task. It goes one state on each time somebody looks at it.
#[derive(Debug)]
pub(super) struct Task {
    id: String,
    group: String,
    stream_prefix: String,
    from: i64,
    to: i64,
    bucket: String,
    prefix: String,
    state: &'static str,
    created: i64,
}

impl Task {
    fn is_active(&self) -> bool {
        matches!(self.state, "PENDING" | "RUNNING")
    }
}

impl Store {
    pub(super) fn create_export(&mut self, request: &Value) -> Result<Value, Refusal> {
        let (group, bucket) = (name(request, "logGroupName")?, name(request, "destination")?);
        let (Some(from), Some(to)) = (request["from"].as_i64(), request["to"].as_i64()) else {
            return refuse("InvalidParameterException", "from and to are required");
        };
        if !self.groups.contains_key(group) {
            return refuse("ResourceNotFoundException", "The specified log group does not exist.");
        }
        if from < 0 || to <= from {
            return refuse("InvalidParameterException", "to must be later than from");
        }
        if self.tasks.iter().any(Task::is_active) {
            return refuse("LimitExceededException", "Resource limit exceeded.");
        }
        let id = format!("00000000-0000-4000-8000-{:012}", self.tasks.len());
        self.tasks.push(Task {
            id: id.clone(),
            group: group.to_owned(),
            stream_prefix: request["logStreamNamePrefix"].as_str().unwrap_or_default().to_owned(),
            from,
            to,
            bucket: bucket.to_owned(),
            prefix: request["destinationPrefix"].as_str().unwrap_or("exportedlogs").to_owned(),
            state: "PENDING",
            created: now(),
        });
        Ok(json!({"taskId": id}))
    }

    pub(super) fn describe_exports(&mut self, request: &Value) -> Result<Value, Refusal> {
        let (id, state) = (request["taskId"].as_str(), request["statusCode"].as_str());
        let asked = |task: &Task| id.is_none_or(|id| task.id == id) && state.is_none_or(|state| task.state == state);
        let described: Vec<Value> = self.tasks.iter().filter(|task| asked(task)).map(described).collect();
        if id.is_some() && described.is_empty() && state.is_none() {
            return refuse("ResourceNotFoundException", "The specified export task does not exist.");
        }
        for index in 0..self.tasks.len() {
            match self.tasks[index].state {
                "PENDING" => self.tasks[index].state = "RUNNING",
                "RUNNING" => {
                    self.tasks[index].state = "COMPLETED";
                    self.write(index);
                }
                _ => {}
            }
        }
        Ok(json!({"exportTasks": described}))
    }

    pub(super) fn cancel_export(&mut self, request: &Value) -> Result<Value, Refusal> {
        let id = name(request, "taskId")?;
        let Some(task) = self.tasks.iter_mut().find(|task| task.id == id) else {
            return refuse("ResourceNotFoundException", "The specified export task does not exist.");
        };
        if !task.is_active() {
            return refuse("InvalidOperationException", "The specified export task has finished already.");
        }
        task.state = "CANCELLED";
        Ok(json!({}))
    }

    pub(super) fn exported(&self) -> Vec<Exported> {
        self.exported.clone()
    }

    /// Writes what a task is about.
    fn write(&mut self, index: usize) {
        let task = &self.tasks[index];
        let Some(group) = self.groups.get(&task.group) else { return };
        let streams = group.streams.iter().filter(|(name, _)| name.starts_with(&task.stream_prefix));
        for (stream, kept) in streams {
            let events = kept.events.iter().filter(|event| (task.from..=task.to).contains(&event.timestamp));
            self.exported.extend(events.map(|event| Exported {
                bucket: task.bucket.clone(),
                prefix: format!("{}/{}", task.prefix, task.id),
                stream: stream.clone(),
                timestamp: event.timestamp,
                message: event.message.clone(),
            }));
        }
    }
}

fn described(task: &Task) -> Value {
    json!({"taskId": task.id, "logGroupName": task.group, "from": task.from, "to": task.to,
        "destination": task.bucket, "destinationPrefix": task.prefix, "status": {"code": task.state},
        "executionInfo": {"creationTime": task.created}})
}
