//! The same work without logship: one thread that reads, parses, encodes, packs and sends, by the shortest way that is
//! known. What it does in a second of CPU is the limit that scenarios are held against.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;

use ring::digest::{SHA256, digest};

use crate::corpus::Corpus;
use crate::destination::Destination;
use crate::row::Row;
use crate::rows;
use crate::scenario::{From, Packing, Scenario, To};

/// Packs a body into `packed`, and says which of the two is to be sent.
fn pack<'b>(packing: Packing, body: &'b [u8], packed: &'b mut Vec<u8>) -> std::io::Result<&'b [u8]> {
    packed.clear();
    let level = match packing {
        Packing::None => return Ok(body),
        Packing::Zstd1 => {
            *packed = zstd::bulk::compress(body, 1)?;
            return Ok(packed);
        }
        Packing::Gzip1 => 1,
        Packing::Gzip6 => 6,
    };
    let mut encoder = flate2::write::GzEncoder::new(packed, flate2::Compression::new(level));
    encoder.write_all(body)?;
    Ok(encoder.finish()?)
}

/// Where a lane's bodies go.
enum Lane {
    /// Over a connection, which waits for each answer.
    Http(BufReader<TcpStream>),
    File(File),
}

impl Lane {
    fn open(destination: &Destination, number: usize, port: u16, dir: &Path) -> std::io::Result<Self> {
        if destination.is_file() {
            return Ok(Lane::File(File::create(dir.join(format!("reference{number}")))?));
        }
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Ok(Lane::Http(BufReader::with_capacity(1 << 18, stream)))
    }

    fn send(&mut self, head: &[u8], body: &[u8], answer: &mut Vec<u8>) -> std::io::Result<()> {
        let reader = match self {
            Lane::File(file) => return file.write_all(body),
            Lane::Http(reader) => reader,
        };
        reader.get_mut().write_all(head)?;
        reader.get_mut().write_all(body)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim_end().parse().map_err(std::io::Error::other)?;
            }
        }
        answer.resize(length, 0);
        reader.read_exact(answer)
    }
}

/// Bodies of one form, written once for all the lanes that get them.
struct Bodies {
    destination: &'static Destination,
    packing: Packing,
    lanes: Vec<Lane>,
    body: Vec<u8>,
    records: usize,
    packed: Vec<u8>,
    answer: Vec<u8>,
}

impl Bodies {
    fn new(destination: &'static Destination, packing: Packing, lane: Lane) -> Self {
        let (body, packed, answer) = (Vec::new(), Vec::new(), Vec::new());
        Bodies { destination, packing, lanes: vec![lane], body, records: 0, packed, answer }
    }

    fn add(&mut self, row: &Row<'_>) -> std::io::Result<()> {
        let between = if self.records == 0 { self.destination.begin } else { self.destination.separator };
        self.body.extend_from_slice(between);
        (self.destination.write)(row, &mut self.body);
        self.records += 1;
        if self.records == self.destination.chunk { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> std::io::Result<()> {
        if self.records == 0 {
            return Ok(());
        }
        (self.destination.finish)(&mut self.body);
        let body = pack(self.packing, &self.body, &mut self.packed)?;
        let encoding = match self.packing {
            Packing::None => "",
            Packing::Gzip1 | Packing::Gzip6 => "content-encoding: gzip\r\n",
            Packing::Zstd1 => "content-encoding: zstd\r\n",
        };
        let mut hash = String::new();
        if self.destination.signs {
            // The rest of a signature is of the head, and costs little beside it.
            hash.push_str("x-amz-content-sha256: ");
            digest(&SHA256, body).as_ref().iter().for_each(|byte| hash.push_str(&format!("{byte:02x}")));
            hash.push_str("\r\n");
        }
        let (path, length) = (self.destination.path, body.len());
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: receiver\r\n{encoding}{hash}content-length: {length}\r\n\r\n");
        for lane in &mut self.lanes {
            lane.send(head.as_bytes(), body, &mut self.answer)?;
        }
        self.body.clear();
        self.records = 0;
        Ok(())
    }
}

/// Runs a scenario and says how many records there were. `begin` is called when everything is prepared.
pub(crate) async fn run(
    scenario: Scenario,
    corpus: &Corpus,
    port: u16,
    dir: &Path,
    begin: impl FnOnce(),
) -> Result<u64, Box<dyn Error>> {
    if let (From::Memory(_), To::Null) = (scenario.from, scenario.to) {
        return rows::let_go(corpus, begin).await;
    }
    let mut bodies: Vec<Bodies> = Vec::new();
    for number in 0..scenario.lanes {
        let Some(destination) = scenario.to.of_lane(number) else { continue };
        let lane = Lane::open(destination, number, port, dir)?;
        match bodies.iter_mut().find(|bodies| bodies.destination.name == destination.name) {
            Some(shared) => shared.lanes.push(lane),
            None => bodies.push(Bodies::new(destination, scenario.packing, lane)),
        }
    }
    let mut records = 0;
    rows::each(scenario.from, corpus, begin, |row| {
        records += 1;
        bodies.iter_mut().try_for_each(|bodies| bodies.add(row))
    })
    .await?;
    bodies.iter_mut().try_for_each(Bodies::send)?;
    Ok(records)
}
