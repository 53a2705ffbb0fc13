//! Where requests go: a process of its own, so that what it costs is not counted. Answers like Elasticsearch where it is
//! asked to, and counts the lines it got.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};

use flate2::read::GzDecoder;

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
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || connection(stream).ok());
        }
    });
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

/// Lines of a body, by what its requests say of their packing.
fn lines(body: &[u8], encoding: &str) -> std::io::Result<usize> {
    let mut unpacked = Vec::new();
    let body = match encoding {
        "gzip" => {
            GzDecoder::new(body).read_to_end(&mut unpacked)?;
            &unpacked
        }
        "zstd" => {
            unpacked = zstd::decode_all(body)?;
            &unpacked
        }
        _ => body,
    };
    Ok(memchr::memchr_iter(b'\n', body).count())
}

fn connection(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(1 << 18, stream);
    let (mut head, mut body) = (String::new(), Vec::new());
    loop {
        let (mut length, mut encoding) = (0, String::new());
        head.clear();
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
        let is_bulk = head.contains("/_bulk");
        loop {
            let mut line = String::new();
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
        let answer = if is_bulk {
            let items = lines(&body, &encoding)? / 2;
            let items = vec![r#"{"create":{"status":201}}"#; items].join(",");
            format!(r#"{{"errors":false,"items":[{items}]}}"#)
        } else {
            "{}".to_owned()
        };
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", answer.len());
        writer.write_all(head.as_bytes())?;
        writer.write_all(answer.as_bytes())?;
    }
}
