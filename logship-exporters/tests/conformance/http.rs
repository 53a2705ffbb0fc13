use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Mutex};

use logship_core::{BuildContext, Exporter, LogRecord, async_trait, read_fields};
use logship_exporters::http::Http;
use logship_testkit::conformance::exporter::{ExporterFixture, Request, World};
use logship_testkit::exporter_conformance;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::nowhere;

/// A server that takes lines, and fails as it is told to.
#[derive(Clone, Default)]
struct Server {
    state: Arc<Mutex<State>>,
    url: String,
}

#[derive(Default)]
struct State {
    worlds: VecDeque<World>,
    held: Vec<String>,
    requests: Vec<Request>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Server { url, ..Server::default() };
        let serving = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let serving = serving.clone();
                // A client that goes away in the middle is the usual thing here.
                tokio::spawn(async move { serving.serve(stream).await.ok() });
            }
        });
        server
    }

    /// Reads one request, and answers it or hangs up.
    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let header = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_default().to_owned()
        };
        if head.starts_with("head ") {
            return answer(&mut stream, 200, "").await;
        }
        let world = self.state.lock().unwrap().worlds.pop_front();
        if world == Some(World::BrokenBefore) {
            self.state.lock().unwrap().requests.push(Request::default());
            return Ok(());
        }
        let mut body = vec![0; header("content-length").parse().unwrap()];
        stream.read_exact(&mut body).await?;
        let mut text = String::new();
        flate2::read::GzDecoder::new(body.as_slice()).read_to_string(&mut text).unwrap();
        let records = text.lines().count();
        assert_eq!(header("x-logship-count"), records.to_string());
        let request = Request { records, body_bytes: text.len(), wire_bytes: body.len() };
        self.state.lock().unwrap().requests.push(request);
        let status = match &world {
            Some(World::Busy) => 429,
            Some(World::Denied) => 401,
            Some(World::Refused) => 404,
            _ => 200,
        };
        if status != 200 {
            return answer(&mut stream, status, "no").await;
        }
        let verdicts = self.take(&text, &world);
        match world {
            Some(World::AnswerLost) => Ok(()),
            _ => answer(&mut stream, 200, &serde_json::to_string(&verdicts).unwrap()).await,
        }
    }

    /// Keeps the lines it is to keep, and says what became of each.
    fn take(&self, text: &str, world: &Option<World>) -> Vec<serde_json::Value> {
        let later = |place: usize| matches!(world, Some(World::Later(places)) if places.contains(&place));
        let mut state = self.state.lock().unwrap();
        let mut fate = |(place, line): (usize, &str)| {
            if later(place) {
                return json!({"status": 503});
            }
            if line.contains("spoilt") {
                return json!({"status": 400, "error": "this one is not wanted"});
            }
            state.held.push(line.to_owned());
            json!({"status": 202})
        };
        text.lines().enumerate().map(&mut fate).collect()
    }
}

async fn answer(stream: &mut TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    let len = body.len();
    let text = format!("HTTP/1.1 {status} x\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await
}

fn exporter(url: &str) -> Arc<dyn Exporter> {
    let fields = json!({
        "url": format!("{url}/in?key=s3cret"),
        "auth": {"bearer": {"token": "hunter2"}},
        "headers": {"X-Tenant": "sw0rdfish"},
        "chunk_bytes_max": 20_000,
    });
    let serde_json::Value::Object(fields) = fields else { unreachable!() };
    Arc::new(Http::new(read_fields(fields).unwrap(), BuildContext::default()).unwrap())
}

#[async_trait]
impl ExporterFixture for Server {
    async fn open(&self) -> Arc<dyn Exporter> {
        exporter(&self.url)
    }

    async fn held(&self) -> Vec<String> {
        self.state.lock().unwrap().held.clone()
    }

    async fn play(&self, world: World, requests: usize) -> bool {
        self.state.lock().unwrap().worlds.extend(std::iter::repeat_n(world, requests));
        true
    }

    async fn unreachable(&self) -> Option<Arc<dyn Exporter>> {
        Some(exporter(&nowhere().await))
    }

    fn spoil(&self, record: &mut LogRecord) -> bool {
        record.attributes.push(("state".into(), "spoilt".into()));
        true
    }

    fn secrets(&self) -> Vec<String> {
        ["s3cret", "hunter2", "sw0rdfish"].map(str::to_owned).to_vec()
    }

    async fn requests(&self) -> Option<Vec<Request>> {
        Some(self.state.lock().unwrap().requests.clone())
    }
}

exporter_conformance!(async |_| Some(Server::start().await));
