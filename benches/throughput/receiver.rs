//! Where requests go: a process of its own, so that what it costs is not counted. It answers as the destination does
//! whose path is asked, and counts what it gets.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::read::GzDecoder;
use logship::Timestamp;
use serde::{Deserialize, Serialize};

use crate::destination::{Answer, DESTINATIONS};

/// Where documents go whose way is timed.
pub(crate) const TIMED_INDEX: &str = "timed";
/// Where the receiver says what it has got, and begins to count anew.
const TAKEN: &str = "/taken";

/// What the receiver has got since it was last asked.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Taken {
    /// In the bodies, packed as they were.
    pub(crate) bytes: u64,
    /// From each timed document's own time until it was answered.
    pub(crate) micros: Vec<u64>,
}

/// A receiver that runs as long as this is held.
pub(crate) struct Receiver {
    process: Child,
    /// Closing it ends the process.
    _alive: Option<ChildStdin>,
    pub(crate) port: u16,
}

impl Receiver {
    pub(crate) fn start() -> std::io::Result<Self> {
        let program = std::env::current_exe()?;
        let mut process =
            Command::new(program).arg("--receiver").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().ok_or_else(|| std::io::Error::other("no output"))?)
            .read_line(&mut line)?;
        let port = line.trim().parse().map_err(std::io::Error::other)?;
        Ok(Receiver { _alive: process.stdin.take(), process, port })
    }

    /// What it has got since this was last asked.
    pub(crate) fn taken(&self) -> std::io::Result<Taken> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.write_all(format!("GET {TAKEN} HTTP/1.1\r\n\r\n").as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line)?;
        }
        Ok(Taken::deserialize(&mut serde_json::Deserializer::from_reader(reader))?)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Whether it was there or not, it is gone.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The receiver's own process: says its port, and serves until its input ends.
pub(crate) fn serve() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    let taken = Arc::new(Mutex::new(Taken::default()));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let taken = Arc::clone(&taken);
            std::thread::spawn(move || connection(stream, &taken).ok());
        }
    });
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn connection(stream: TcpStream, taken: &Mutex<Taken>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(1 << 18, stream);
    let (mut head, mut line, mut body) = (String::new(), String::new(), Vec::new());
    loop {
        let (mut length, mut encoding) = (0, String::new());
        head.clear();
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().map_err(std::io::Error::other)?,
                "content-encoding" => encoding = value.to_owned(),
                _ => {}
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        let path = head.split(' ').nth(1).unwrap_or_default();
        let (status, headers, said) = answer(path, unpacked(&body, &encoding)?.as_ref(), taken)?;
        let length = said.len();
        let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n");
        // Held while it is answered, so that whoever has the answer finds the body counted.
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        writer.write_all(head.as_bytes())?;
        writer.write_all(said.as_bytes())?;
        taken.bytes += body.len() as u64;
        if path.strip_prefix('/').is_some_and(|path| path.starts_with(TIMED_INDEX)) {
            time(&body, &mut taken.micros);
        }
    }
}

/// A body, which has to be read only where the answer or the clock depends on it.
fn unpacked<'b>(body: &'b [u8], encoding: &str) -> std::io::Result<Cow<'b, [u8]>> {
    match encoding {
        "gzip" => {
            let mut unpacked = Vec::new();
            GzDecoder::new(body).read_to_end(&mut unpacked)?;
            Ok(unpacked.into())
        }
        "zstd" => Ok(zstd::decode_all(body)?.into()),
        _ => Ok(body.into()),
    }
}

/// Status, headers and body.
fn answer(
    path: &str,
    body: &[u8],
    taken: &Mutex<Taken>,
) -> std::io::Result<(&'static str, &'static str, Cow<'static, str>)> {
    if path == TAKEN {
        let taken = std::mem::take(&mut *taken.lock().unwrap_or_else(PoisonError::into_inner));
        return Ok(("200 OK", "", serde_json::to_string(&taken)?.into()));
    }
    let known = DESTINATIONS.iter().filter(|known| !known.is_file() && path.starts_with(known.path));
    let found = known.max_by_key(|known| known.path.len()).map(|known| known.answer);
    match found.filter(|_| !path.contains("/_bulk")).unwrap_or(Answer::Bulk) {
        Answer::Same(status, headers, said) => Ok((status, headers, said.into())),
        Answer::Bulk => {
            let documents = memchr::memchr_iter(b'\n', body).count() / 2;
            let items = vec![r#"{"create":{"status":201}}"#; documents].join(",");
            let said = format!(r#"{{"errors":false,"items":[{items}]}}"#);
            Ok(("200 OK", "content-type: application/json\r\n", said.into()))
        }
    }
}

/// How long ago each document says that it was written.
fn time(body: &[u8], micros: &mut Vec<u64>) {
    const NAME: &[u8] = b"\"@timestamp\":\"";
    let now = Timestamp::now();
    for at in memchr::memmem::find_iter(body, NAME) {
        let text =
            body[at + NAME.len()..].split(|byte| *byte == b'"').next().and_then(|text| str::from_utf8(text).ok());
        if let Some(written) = text.and_then(Timestamp::parse) {
            micros.push(now.since(written).as_micros() as u64);
        }
    }
}
