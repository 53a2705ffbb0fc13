use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use aws_sdk_sqs::Client;
use logship_connect::Connection;
use logship_connect::aws::{Aws, AwsConfig};
use logship_core::{BuildContext, Exporter, async_trait};
use logship_exporters::sqs::{Sqs, SqsConfig};
use logship_testkit::conformance::exporter::ExporterFixture;
use logship_testkit::conformance::server;
use logship_testkit::exporter_conformance;
use serde_json::json;

/// A queue of moto's.
struct Fixture {
    client: Client,
    url: String,
    queue_url: String,
    seen: Mutex<Vec<String>>,
}

fn aws(url: &str) -> AwsConfig {
    let credentials = json!({"static": {"access_key_id": "AKIDKIT", "secret_access_key": "hunter2-secret"}});
    serde_json::from_value(json!({"region": "us-east-1", "endpoint": url, "credentials": credentials})).unwrap()
}

async fn queue(_: &str) -> Option<Fixture> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let url = server("LOGSHIP_MOTO_URL")?;
    let name = format!("kit-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let aws = Aws::new(&aws(&url), &Connection::default(), &BuildContext::default()).unwrap();
    let client = Client::new(aws.sdk_config().await.unwrap());
    let queue_url = client.create_queue().queue_name(&name).send().await.unwrap().queue_url.unwrap();
    client.purge_queue().queue_url(&queue_url).send().await.unwrap();
    Some(Fixture { client, url, queue_url, seen: Mutex::default() })
}

fn exporter(url: &str, queue_url: &str) -> Arc<dyn Exporter> {
    let mut config = SqsConfig::new(queue_url);
    config.aws = aws(url);
    Arc::new(Sqs::new(config, &BuildContext::default()).unwrap())
}

#[async_trait]
impl ExporterFixture for Fixture {
    async fn open(&self) -> Arc<dyn Exporter> {
        exporter(&self.url, &self.queue_url)
    }

    async fn held(&self) -> Vec<String> {
        loop {
            let received = self.client.receive_message().queue_url(&self.queue_url).max_number_of_messages(10);
            // Longer than any test, so that none is received twice.
            let received = received.visibility_timeout(43_200);
            let messages = received.send().await.unwrap().messages.unwrap_or_default();
            if messages.is_empty() {
                return self.seen.lock().unwrap().clone();
            }
            self.seen.lock().unwrap().extend(messages.into_iter().filter_map(|message| message.body));
        }
    }

    async fn unreachable(&self) -> Option<Arc<dyn Exporter>> {
        let url = super::nowhere().await;
        Some(exporter(&url, &format!("{url}/123456789012/q")))
    }

    fn secrets(&self) -> Vec<String> {
        vec!["hunter2-secret".to_owned()]
    }
}

exporter_conformance!(queue);
