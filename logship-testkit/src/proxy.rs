//! A proxy in front of a real server, or of what stands for one, that fails on request: such servers are never busy.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// How one request fails.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyFault {
    /// The connection breaks before the body is read. The server sees nothing.
    DropUnread,
    /// The server answers, and nobody hears it.
    LoseAnswer,
    /// This is the answer. The server sees nothing.
    Answer {
        /// The status.
        status: u16,
        /// Further headers.
        headers: Vec<(String, String)>,
        /// The body.
        body: String,
    },
}

impl ProxyFault {
    /// This status with this body.
    pub fn answer(status: u16, body: impl Into<String>) -> Self {
        ProxyFault::Answer { status, headers: Vec::new(), body: body.into() }
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let ProxyFault::Answer { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }
}

/// A request that came by.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProxiedRequest {
    /// The method.
    pub method: String,
    /// The path and the query.
    pub target: String,
    /// The names, in lower case, and values of the headers.
    pub headers: Vec<(String, String)>,
    /// The body; empty where it was not read.
    pub body: Vec<u8>,
}

impl ProxiedRequest {
    /// The value of a header, whose name is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether it puts something up.
    pub fn is_upload(&self) -> bool {
        self.method == "PUT" && self.header("content-length").is_some_and(|length| length != "0")
    }

    /// Whether it is a call of AWS JSON, which says in a header what it asks for.
    pub fn is_call(&self) -> bool {
        self.header("x-amz-target").is_some()
    }
}

/// Passes requests on, one a connection, but for those that are to fail. Ends when it is dropped.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use logship_testkit::proxy::{FaultProxy, ProxyFault};
///
/// let proxy = FaultProxy::start("http://127.0.0.1:24055").await?;
/// proxy.fail_next(1, ProxyFault::answer(503, "busy"));
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    serving: AbortHandle,
}

#[derive(Debug, Default)]
struct State {
    /// Of what may fail.
    faults: VecDeque<ProxyFault>,
    requests: Vec<ProxiedRequest>,
}

impl FaultProxy {
    /// Starts one in front of an address such as `http://127.0.0.1:24055`.
    pub async fn start(upstream: &str) -> io::Result<Self> {
        Self::serve(upstream, false).await
    }

    /// The same, but passes paths on without their percent signs, for a server that does not read these.
    pub async fn start_decoding(upstream: &str) -> io::Result<Self> {
        Self::serve(upstream, true).await
    }

    async fn serve(upstream: &str, is_decoding: bool) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let upstream: Arc<str> = upstream.trim_start_matches("http://").trim_end_matches('/').into();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (upstream, shared) = (Arc::clone(&upstream), Arc::clone(&shared));
                // A client that goes away in the middle is the usual thing here.
                tokio::spawn(async move { drop(serve(stream, &upstream, &shared, is_decoding).await) });
            }
        });
        Ok(FaultProxy { address, state, serving: serving.abort_handle() })
    }

    /// Where it listens, such as `http://127.0.0.1:40123`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets each of the next `times` uploads, or calls of AWS JSON, fail so, after those that were planned before.
    pub fn fail_next(&self, times: usize, fault: ProxyFault) {
        lock(&self.state).faults.extend(std::iter::repeat_n(fault, times));
    }

    /// All requests up to now.
    pub fn requests(&self) -> Vec<ProxiedRequest> {
        lock(&self.state).requests.clone()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(mut stream: TcpStream, upstream: &str, state: &Mutex<State>, is_decoding: bool) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let mut request = parse(&String::from_utf8_lossy(&head));
    if is_decoding {
        let text = String::from_utf8_lossy(&head);
        head = text.replacen(&request.target, &decoded(&request.target), 1).into_bytes();
    }
    let fault = (request.is_upload() || request.is_call()).then(|| lock(state).faults.pop_front()).flatten();
    if fault == Some(ProxyFault::DropUnread) {
        lock(state).requests.push(request);
        return Ok(());
    }
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    request.body = vec![0; length];
    stream.read_exact(&mut request.body).await?;
    let body = request.body.clone();
    lock(state).requests.push(request);
    if let Some(ProxyFault::Answer { status, headers, body }) = fault {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let text =
            format!("HTTP/1.1 {status} x\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
        return stream.write_all(text.as_bytes()).await;
    }
    let mut server = TcpStream::connect(upstream).await?;
    head.truncate(head.len() - 2);
    head.extend_from_slice(b"connection: close\r\n\r\n");
    server.write_all(&head).await?;
    server.write_all(&body).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    if fault == Some(ProxyFault::LoseAnswer) {
        return Ok(());
    }
    stream.write_all(&answer).await?;
    stream.shutdown().await
}

/// A path and query of letters and signs that need no percent sign in between.
fn decoded(target: &str) -> String {
    let mut pieces = target.split('%');
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |mut text, piece| {
        let code = piece.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code.filter(u8::is_ascii_graphic) {
            Some(code) => {
                text.push(char::from(code));
                text.push_str(&piece[2..]);
            }
            None => {
                text.push('%');
                text.push_str(piece);
            }
        }
        text
    })
}

fn parse(head: &str) -> ProxiedRequest {
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.trim().to_lowercase(), value.trim().to_owned())).collect();
    ProxiedRequest { method, target, headers, body: Vec::new() }
}
