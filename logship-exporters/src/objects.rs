//! Objects in the stores of the clouds: S3, Google Cloud Storage, Azure Blob Storage, or any other
//! [`Bucket`].
//!
//! # Delivery
//! One chunk is one object. Its key is made of the prefix, the lane, where the chunk begins, and a hash:
//!
//! `archive/2026/11/20/kestra-log-file-archive-after-00000000000000000042_k1-6c62….json.gz`
//!
//! So a chunk that is made again after a crash has the key of the lost one, replaces it, and never stands beside it. A
//! request that was given up on and arrives late after all replaces nothing: objects are made only where there is none
//! yet (`If-None-Match`), and replaced only as they were found (`If-Match`). That takes the right to read them, once one
//! is to be replaced.
//!
//! **Dates.** In a prefix `%Y`, `%m`, `%d` and `%H` stand for the time of the object's first record, in UTC. Where a
//! record appears late before that one, between a crash and the next run, and is of another day (or hour), the repeat
//! has another key, and the chunk is there twice. Without a date in the prefix, never.
//!
//! **Parts.** A body of more than 16 MiB goes up in parts of 8 MiB, four at a time. If one fails, those that are there
//! are removed; a process that ends in the middle leaves them to the bucket's rule for unfinished uploads, which S3 does
//! not have unless it is set up. Conditions do not hold for these.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
pub use logship_connect::objects::Bucket;
use logship_connect::objects::object_store::path::Path;
use logship_connect::objects::object_store::{
    self, Attribute, Attributes, Error as Store, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, UpdateVersion,
};
use logship_connect::objects::{failure, parse_path};
use logship_core::{
    Artifacts, Capabilities, Chunk, Compression, Encoding, Error, Exporter, Idempotency, Limits, Outcome, async_trait,
};

use crate::chunk_name::chunk_name;
use crate::dated::Dated;
pub use crate::encode::Format;
use crate::encode::Rows;
use crate::written::Written;

/// What goes up in one piece at most. Every store takes far more
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>), but a piece that is lost is sent again whole.
const WHOLE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The size of parts. S3 and Google take none below 5 MiB but the last.
const PART_BYTES: usize = 8 * 1024 * 1024;

/// How many parts go up at a time.
const PARTS_AT_A_TIME: usize = 4;

/// The longest key, in bytes, of all three
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>); what a prefix may take of it leaves room
/// for the rest of the name.
const KEY_BYTES_MAX: usize = 1024;

/// What every exporter of objects can be told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ObjectOptions {
    /// What each key begins with. Slashes make folders; `%Y`, `%m`, `%d` and `%H` stand for the time of the object's
    /// first record, in UTC. Default `kestra-log-file`, as in Kestra.
    pub prefix: String,
    /// The form of a record. Default JSON lines.
    pub format: Format,
    /// How objects are packed. Default not at all.
    pub compression: Compression,
    /// The most records in an object. Default 100 000.
    pub max_lines_per_file: usize,
    /// The most bytes in an object before packing. Default 8 MiB.
    pub max_bytes_per_file: usize,
    /// The store's name for a storage class or an access tier. Default: the bucket's own.
    pub storage_class: Option<String>,
    /// Whether the store honours conditions on writes. Default: yes.
    pub conditional_writes: bool,
}

impl Default for ObjectOptions {
    fn default() -> Self {
        ObjectOptions {
            prefix: prefix(),
            format: json(),
            compression: Compression::None,
            max_lines_per_file: max_lines_per_file(),
            max_bytes_per_file: max_bytes_per_file(),
            storage_class: None,
            conditional_writes: true,
        }
    }
}

pub(crate) fn prefix() -> String {
    "kestra-log-file".to_owned()
}

pub(crate) fn json() -> Format {
    Format::Json
}

pub(crate) fn max_lines_per_file() -> usize {
    100_000
}

pub(crate) fn max_bytes_per_file() -> usize {
    8 * 1024 * 1024
}

/// Writes each chunk to an object of its own.
pub struct ObjectExporter {
    kind: &'static str,
    bucket: Arc<dyn Bucket>,
    options: ObjectOptions,
    /// The prefix, if it has a date.
    dated: Option<Dated>,
    encoding: Arc<Rows>,
    written: Written,
}

impl ObjectExporter {
    /// Writes to a bucket of one's own; `kind` is what a configuration calls it. Asks nobody yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](logship_core::ErrorKind::Config), which names the field.
    pub fn new(kind: &'static str, bucket: Arc<dyn Bucket>, options: ObjectOptions) -> Result<Self, Error> {
        let positive =
            [("max_lines_per_file", options.max_lines_per_file), ("max_bytes_per_file", options.max_bytes_per_file)];
        if let Some((field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::config(field, "must be at least 1"));
        }
        let dated = Dated::parse(&options.prefix).map_err(|message| Error::config("prefix", message))?;
        if options.prefix.len() > KEY_BYTES_MAX / 2 {
            return Err(Error::config("prefix", format!("is longer than {} bytes", KEY_BYTES_MAX / 2)));
        }
        let sample = ["%Y", "%m", "%d", "%H"].iter().fold(options.prefix.clone(), |text, date| text.replace(date, "0"));
        parse_path("prefix", &join(&sample, "name"))?;
        let encoding = Arc::new(Rows::new(options.format, options.compression));
        Ok(ObjectExporter { kind, bucket, options, dated, encoding, written: Written::default() })
    }

    /// The key of a chunk's object, which is all that a repeat has in common with it.
    fn key(&self, chunk: &Chunk) -> Result<Path, Error> {
        let mut prefix = Vec::new();
        match (&self.dated, chunk.timestamps().next()) {
            (Some(dated), Some(first)) => dated.write(first, &mut prefix),
            _ => prefix.extend_from_slice(self.options.prefix.as_bytes()),
        }
        let name = chunk_name(chunk, self.options.format, self.options.compression);
        parse_path("lane", &join(&String::from_utf8_lossy(&prefix), &name))
    }

    /// What a store says of an object to whoever fetches it. Packed objects are of their packer's type and not of an
    /// encoding: of one with an encoding some stores and clients undo the packing, and its name would lie.
    fn attributes(&self) -> Attributes {
        let content_type = match (self.options.compression.file_suffix(), self.options.format) {
            (".gz", _) => "application/gzip",
            (".zst", _) => "application/zstd",
            (_, Format::Ion) => "application/ion",
            (_, Format::Json) => "application/x-ndjson",
        };
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::ContentType, content_type.into());
        if let Some(class) = &self.options.storage_class {
            attributes.insert(Attribute::StorageClass, class.clone().into());
        }
        attributes
    }

    /// Puts an object up in one piece.
    async fn put(&self, store: &dyn ObjectStore, key: &Path, payload: PutPayload) -> object_store::Result<()> {
        let put = async |mode: PutMode| {
            let options = PutOptions { mode, attributes: self.attributes(), ..PutOptions::default() };
            store.put_opts(key, payload.clone(), options).await.map(drop)
        };
        if !self.options.conditional_writes {
            return put(PutMode::Overwrite).await;
        }
        match put(PutMode::Create).await {
            Err(Store::AlreadyExists { .. } | Store::Precondition { .. }) => {
                let replace = async {
                    let found = store.head(key).await?;
                    put(PutMode::Update(UpdateVersion { e_tag: found.e_tag, version: found.version })).await
                };
                // Somebody deleted it in between: the next attempt makes it anew.
                replace.await.map_err(|error| match error {
                    Store::NotFound { path, source } => Store::Precondition { path, source },
                    error => error,
                })
            }
            done => done,
        }
    }

    /// Puts an object up in parts, or takes back those that are there.
    async fn put_parts(&self, store: &dyn ObjectStore, key: &Path, body: &[Bytes]) -> object_store::Result<()> {
        let options = PutMultipartOptions { attributes: self.attributes(), ..PutMultipartOptions::default() };
        let mut upload = Upload(Some(store.put_multipart_opts(key, options).await?));
        match upload.send(body).await {
            Ok(()) => upload.0 = None,
            Err(error) => {
                if let Some(mut unfinished) = upload.0.take() {
                    // The first failure says more than one of cleaning up.
                    drop(unfinished.abort().await);
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

/// A prefix and what follows it.
fn join(prefix: &str, name: &str) -> String {
    match prefix.is_empty() || prefix.ends_with('/') {
        true => format!("{prefix}{name}"),
        false => format!("{prefix}-{name}"),
    }
}

/// An upload in parts that is not finished. Dropped, it is taken back.
struct Upload(Option<Box<dyn MultipartUpload>>);

impl Upload {
    async fn send(&mut self, body: &[Bytes]) -> object_store::Result<()> {
        let Some(upload) = &mut self.0 else { return Ok(()) };
        let parts: Vec<_> = payloads(body).into_iter().map(|part| upload.put_part(part)).collect();
        stream::iter(parts).buffer_unordered(PARTS_AT_A_TIME).try_collect::<()>().await?;
        upload.complete().await.map(drop)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(mut upload), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { drop(upload.abort().await) });
        }
    }
}

/// The body cut anew, into parts of which all but the last are of the same size: not every store takes others.
fn payloads(body: &[Bytes]) -> Vec<PutPayload> {
    let (mut payloads, mut open, mut room) = (Vec::new(), Vec::new(), PART_BYTES);
    for part in body {
        let mut rest = part.clone();
        while !rest.is_empty() {
            let taken = rest.split_to(rest.len().min(room));
            room -= taken.len();
            open.push(taken);
            if room == 0 {
                payloads.push(open.drain(..).collect());
                room = PART_BYTES;
            }
        }
    }
    if !open.is_empty() {
        payloads.push(open.into_iter().collect());
    }
    payloads
}

#[async_trait]
impl Exporter for ObjectExporter {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn limits(&self) -> Limits {
        Limits::none()
            .chunk_records_max(self.options.max_lines_per_file)
            .chunk_bytes_max(self.options.max_bytes_per_file)
            .one_partition()
            .concurrency_max(1)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none().idempotency(Idempotency::PerChunk).takes_parts()
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        Some(Arc::clone(&self.encoding) as Arc<dyn Encoding>)
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        const OPERATION: &str = "write an object";
        let body = chunk.require_body(OPERATION)?;
        let key = self.key(chunk)?;
        let store = self.bucket.store().await?;
        let put = match body.len() > WHOLE_BYTES_MAX {
            true => self.put_parts(&*store, &key, body.parts()).await,
            false => self.put(&*store, &key, body.parts().iter().cloned().collect()).await,
        };
        put.map_err(|error| failure(OPERATION, error).with("object", self.bucket.uri(&key)))?;
        self.written.add(self.bucket.uri(&key));
        Ok(Outcome::all_accepted(chunk.len()))
    }

    async fn refresh(&self) -> Result<(), Error> {
        self.bucket.refresh().await
    }

    /// Takes the right to list the bucket, which writing does not.
    async fn check(&self) -> Result<(), Error> {
        const OPERATION: &str = "list the bucket";
        let store = self.bucket.store().await?;
        // No key begins with this: an answer is empty.
        let nothing = Path::from("logship-check");
        let first = store.list(Some(&nothing)).next().await;
        first.transpose().map(drop).map_err(|error| failure(OPERATION, error))
    }

    async fn finish(&self) -> Result<Artifacts, Error> {
        Ok(self.written.take())
    }
}

impl fmt::Debug for ObjectExporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectExporter")
            .field("kind", &self.kind)
            .field("bucket", &self.bucket)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_in_parts_goes_up_in_parts_of_one_size() {
        for lens in [&[0][..], &[1], &[PART_BYTES], &[PART_BYTES - 1, 2], &[3, 2 * PART_BYTES, 5, PART_BYTES]] {
            let fill = |(index, len): (usize, &usize)| Bytes::from(vec![index as u8; *len]);
            let body: Vec<Bytes> = lens.iter().enumerate().map(fill).collect();
            let payloads = payloads(&body);
            let whole: Vec<Bytes> = payloads.iter().flat_map(|payload| payload.iter().cloned()).collect();
            assert_eq!(whole.concat(), body.concat());
            let (last, others) =
                payloads.split_last().map_or((0, &[][..]), |(last, rest)| (last.content_length(), rest));
            assert!(others.iter().all(|part| part.content_length() == PART_BYTES) && last <= PART_BYTES, "{lens:?}");
        }
    }
}
