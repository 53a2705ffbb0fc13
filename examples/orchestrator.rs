//! An orchestrator with logship inside: it runs flows, keeps their logs in SQLite, and ships them meanwhile.
//!
//! What you will see: it serves until Ctrl-C, and ships to the files in `orchestrator-data/archive`. While it runs:
//!
//!     cargo run --example orchestrator [-- 8080]
//!
//!     curl -X POST localhost:8080/flows/nightly-load/executions    # runs a flow
//!     curl localhost:8080/executions                               # how executions ended
//!     curl localhost:8080/shipping                                 # what each lane is doing, and how far it is behind
//!     curl localhost:8080/metrics                                  # the same for Prometheus
//!     curl -X PUT localhost:8080/exporters -H 'content-type: application/json' \
//!       -d '[{"id": "archive", "type": "file", "dir": "orchestrator-data/archive"}, {"id": "terminal", "type": "console"}]'
//!
//! The last exchanges the exporters without a restart: `archive` goes on from its offset, `terminal` gets everything, and
//! a configuration that is wrong is refused while the old one goes on. Ctrl-C lets executions end and ships what is left.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use logship::config::ShipperConfig;
use logship::{BuildContext, CancellationToken, LaneState, LogShipper, Timestamp, registry};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Any error ends the orchestrator with its text.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What there is to run.
const FLOWS: &str = "
- id: nightly-load
  namespace: company.team
  tasks:
    - {id: extract, type: log, level: INFO, message: 'Fetched 42 rows'}
    - {id: settle, type: sleep, millis: 20}
    - {id: load, type: log, level: WARN, message: 'Two rows had no customer'}
- id: invoice-run
  namespace: company.billing
  tasks:
    - {id: collect, type: log, level: DEBUG, message: 'Nothing is cached'}
    - {id: send, type: fail, message: 'The mail server refused'}
";

#[derive(Clone, Debug, Deserialize)]
struct Flow {
    id: String,
    namespace: String,
    tasks: Vec<Task>,
}

#[derive(Clone, Debug, Deserialize)]
struct Task {
    id: String,
    #[serde(flatten)]
    work: Work,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Work {
    Log { level: String, message: String },
    Sleep { millis: u64 },
    Fail { message: String },
}

/// Everything the routes share.
#[derive(Clone)]
struct App {
    dir: PathBuf,
    pool: SqlitePool,
    flows: Arc<Vec<Flow>>,
    executions: TaskTracker,
    shipper: watch::Sender<LogShipper>,
    metrics: PrometheusHandle,
}

type Answer<T> = Result<T, (StatusCode, String)>;

fn internal(error: impl std::fmt::Display) -> (StatusCode, String) {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// The store: executions, and their logs as Kestra keeps them. What was running when the last process was killed has
/// failed.
async fn open_store(dir: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(dir.join("orchestrator.db")).create_if_missing(true);
    let pool = SqlitePool::connect_with(options.journal_mode(SqliteJournalMode::Wal)).await?;
    sqlx::raw_sql(
        "create table if not exists executions (id text primary key, flow text not null, state text not null);
         create table if not exists logs (key text primary key, namespace text, flow_id text, task_id text,
           execution_id text, level text, timestamp text not null, message text);
         create index if not exists logs_timestamp on logs (timestamp, key);
         update executions set state = 'FAILED' where state = 'RUNNING';",
    )
    .execute(&pool)
    .await?;
    Ok(pool)
}

impl App {
    /// Runs the tasks of a flow one after another, as far as they succeed.
    async fn execute(&self, flow: &Flow, execution: &str) -> Result<(), sqlx::Error> {
        let mut state = "SUCCESS";
        for task in &flow.tasks {
            match &task.work {
                Work::Log { level, message } => self.log(flow, Some(task), execution, level, message).await?,
                Work::Sleep { millis } => tokio::time::sleep(Duration::from_millis(*millis)).await,
                Work::Fail { message } => {
                    self.log(flow, Some(task), execution, "ERROR", message).await?;
                    state = "FAILED";
                    break;
                }
            }
        }
        self.log(flow, None, execution, "INFO", &format!("The execution ended: {state}")).await?;
        let update = sqlx::query("update executions set state = ? where id = ?").bind(state).bind(execution);
        update.execute(&self.pool).await.map(drop)
    }

    async fn log(
        &self,
        flow: &Flow,
        task: Option<&Task>,
        execution: &str,
        level: &str,
        message: &str,
    ) -> Result<(), sqlx::Error> {
        sqlx::query("insert into logs values (?, ?, ?, ?, ?, ?, ?, ?)")
            .bind(format!("{:032x}", fastrand::u128(..)))
            .bind(&flow.namespace)
            .bind(&flow.id)
            .bind(task.map(|task| &task.id))
            .bind(execution)
            .bind(level)
            .bind(Timestamp::now().to_string())
            .bind(message)
            .execute(&self.pool)
            .await
            .map(drop)
    }
}

/// The shipper: everything but its exporters is the orchestrator's own matter.
fn shipper(dir: &Path, exporters: &Value) -> Result<LogShipper, Failure> {
    let config: ShipperConfig = serde_json::from_value(json!({
        "source": {"type": "sqlite", "path": dir.join("orchestrator.db"), "mapping": "kestra"},
        "offsets": {"type": "file", "dir": dir.join("offsets")},
        "query": {"severity_min": "INFO"},
        "poll_interval_ms": 200,
        "redaction": {},
        "exporters": exporters,
    }))?;
    Ok(config.build(&registry(), &BuildContext::default())?)
}

/// Ships until told to stop, always with the newest shipper. When there is another one, the old one ends what it has
/// begun and commits it; lanes of the same id go on from there.
async fn ship(mut shippers: watch::Receiver<LogShipper>, stop: CancellationToken) {
    loop {
        let shipper = shippers.borrow_and_update().clone();
        let run_stop = stop.child_token();
        let run = shipper.run(run_stop.clone());
        tokio::pin!(run);
        let ended = tokio::select! {
            biased;
            ended = &mut run => ended,
            Ok(()) = shippers.changed() => {
                run_stop.cancel();
                shippers.mark_changed();
                run.await
            }
        };
        match ended {
            Ok(report) => tracing::info!("a run of shipping ended:\n{report}"),
            // Another process ships, or the offset store is away: both may pass.
            Err(error) => tracing::warn!(%error, "shipping does not run; trying again"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Ok(()) = shippers.changed() => shippers.mark_changed(),
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
    }
    // What the last executions said is shipped, too, if that does not take too long; else the next start does it.
    let last = shippers.borrow().clone();
    match tokio::time::timeout(Duration::from_secs(10), last.run_once()).await {
        Ok(Ok(report)) => tracing::info!("the last run of shipping:\n{report}"),
        Ok(Err(error)) => tracing::warn!(%error, "the rest is shipped after the next start"),
        Err(_) => tracing::warn!("the rest is shipped after the next start"),
    }
}

async fn start(State(app): State<App>, UrlPath(flow): UrlPath<String>) -> Answer<(StatusCode, Json<Value>)> {
    let Some(flow) = app.flows.iter().find(|known| known.id == flow).cloned() else {
        return Err((StatusCode::NOT_FOUND, format!("there is no flow {flow}")));
    };
    let id = format!("{:016x}", fastrand::u64(..));
    let insert = sqlx::query("insert into executions values (?, ?, 'RUNNING')").bind(&id).bind(&flow.id);
    insert.execute(&app.pool).await.map_err(internal)?;
    let answer = Json(json!({"id": id}));
    app.executions.clone().spawn(async move {
        if let Err(error) = app.execute(&flow, &id).await {
            tracing::error!(%error, execution = id, "an execution could not be recorded");
        }
    });
    Ok((StatusCode::ACCEPTED, answer))
}

async fn executions(State(app): State<App>) -> Answer<Json<Vec<Value>>> {
    let rows: Vec<(String, String, String)> =
        sqlx::query_as("select id, flow, state from executions").fetch_all(&app.pool).await.map_err(internal)?;
    Ok(Json(rows.into_iter().map(|(id, flow, state)| json!({"id": id, "flow": flow, "state": state})).collect()))
}

async fn shipping(State(app): State<App>) -> Json<Vec<LaneState>> {
    Json(app.shipper.borrow().states())
}

async fn metrics(State(app): State<App>) -> String {
    app.metrics.run_upkeep();
    app.metrics.render()
}

async fn exchange(State(app): State<App>, Json(exporters): Json<Value>) -> Answer<StatusCode> {
    let shipper = shipper(&app.dir, &exporters).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    app.shipper.send_replace(shipper);
    Ok(StatusCode::NO_CONTENT)
}

/// Serves until told to stop; then lets executions end, and ships what they said.
pub async fn serve(
    dir: &Path,
    listener: TcpListener,
    recorder: PrometheusHandle,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let pool = open_store(dir).await?;
    let archive = json!([{"id": "archive", "type": "file", "dir": dir.join("archive")}]);
    let (shipper, shippers) = watch::channel(shipper(dir, &archive)?);
    let (tracker, flows) = (TaskTracker::new(), Arc::new(serde_saphyr::from_str(FLOWS)?));
    let app = App { dir: dir.into(), pool, flows, executions: tracker.clone(), shipper, metrics: recorder };
    let ship_stop = CancellationToken::new();
    let shipping_task = tokio::spawn(ship(shippers, ship_stop.clone()));
    let routes = Router::new()
        .route("/flows/{flow}/executions", post(start))
        .route("/executions", get(executions))
        .route("/shipping", get(shipping))
        .route("/metrics", get(metrics))
        .route("/exporters", put(exchange))
        .with_state(app);
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await?;
    tracker.close();
    tracker.wait().await;
    ship_stop.cancel();
    Ok(shipping_task.await?)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    tracing_subscriber::fmt().init();
    let port = std::env::args().nth(1).map_or(Ok(8080), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let dir = PathBuf::from("orchestrator-data");
    std::fs::create_dir_all(&dir)?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stopped.cancel();
        }
    });
    tracing::info!("http://{}/shipping", listener.local_addr()?);
    serve(&dir, listener, PrometheusBuilder::new().install_recorder()?, stop).await
}
