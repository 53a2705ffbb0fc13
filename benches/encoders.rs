//! What writing one record costs, in the form of each destination: nanoseconds per record.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run says why by its panic")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use logship::exporters::elasticsearch::{Elasticsearch, ElasticsearchConfig};
use logship::exporters::encode::Format;
use logship::exporters::file::{FileConfig, FileExporter};
use logship::exporters::otlp::{Otlp, OtlpConfig, OtlpProtocol};
use logship::{
    BuildContext, Cursor, Encoding, Exporter, LogRecord, Partition, RecordId, Resource, Severity, TextArena, Timestamp,
};

/// A page of believable records: half a kilobyte each, a quote or a line break in some, a stack trace in a few.
fn records() -> Vec<LogRecord> {
    let partition = Partition::new("logs");
    let resource = Arc::new(Resource { attributes: vec![("service.name".into(), "orchestrator".into())] });
    let mut rng = fastrand::Rng::with_seed(7);
    let mut arena = TextArena::new();
    let record = |number: i64| {
        let timestamp = Timestamp::from_millis(1_795_163_400_000 + number);
        let id = RecordId::new(partition.clone(), Cursor::text(arena.push(&format!("{timestamp}\tk{number:08}"))));
        let mut record = LogRecord::new(id, timestamp);
        record.severity = [Severity::INFO, Severity::WARN, Severity::ERROR][rng.usize(0..3)];
        record.resource = Arc::clone(&resource);
        let mut body = format!("task \"load-{number}\" copied {} rows from staging.orders", rng.u32(..));
        if rng.u32(0..20) == 0 {
            (0..12).for_each(|line| body.push_str(&format!("\n\tat com.company.Task.step{line}(Task.java:{line})")));
        }
        record.body = arena.push(&body).into();
        let values = ["namespace", "flowId", "taskId", "executionId", "taskRunId", "thread"];
        record.attributes = values
            .iter()
            .map(|name| ((*name).into(), arena.push(&format!("{name}-{:x}", rng.u64(..))).into()))
            .collect();
        record.attributes.push(("attemptNumber".into(), rng.i64(0..4).into()));
        record
    };
    (0..1_000).map(record).collect()
}

fn encoders(criterion: &mut Criterion) {
    let elasticsearch = ElasticsearchConfig::new(vec!["http://localhost:9200".parse().unwrap()], "logs");
    let elasticsearch = Elasticsearch::new(elasticsearch, &BuildContext::default()).unwrap();
    let file = |format| FileExporter::new(FileConfig { format, ..FileConfig::default() });
    let otlp = |protocol| {
        let mut config = OtlpConfig::new("http://localhost:4318");
        config.protocol = protocol;
        Otlp::new(config, BuildContext::default()).unwrap()
    };
    let encodings: [(&str, Arc<dyn Encoding>); 5] = [
        ("elasticsearch_bulk", elasticsearch.encoding().unwrap()),
        ("ion_rows", file(Format::Ion).encoding().unwrap()),
        ("json_rows", file(Format::Json).encoding().unwrap()),
        ("otlp_json", otlp(OtlpProtocol::HttpJson).encoding().unwrap()),
        ("otlp_protobuf", otlp(OtlpProtocol::HttpProtobuf).encoding().unwrap()),
    ];
    let records = records();
    let mut group = criterion.benchmark_group("encoders");
    group.throughput(Throughput::Elements(1));
    // The limit: as many bytes copied as the record holds.
    group.bench_function("copy_alone", |bencher| {
        let texts: Vec<Vec<u8>> = records.iter().map(|record| vec![b'x'; record.size()]).collect();
        let mut out = Vec::with_capacity(2 << 20);
        let mut texts = texts.iter().cycle();
        bencher.iter(|| {
            if out.len() > 1 << 20 {
                out.clear();
            }
            out.extend_from_slice(black_box(texts.next().unwrap()));
        });
    });
    for (name, encoding) in encodings {
        group.bench_function(name, |bencher| {
            let mut out = Vec::with_capacity(2 << 20);
            let mut records = records.iter().cycle();
            bencher.iter(|| {
                if out.len() > 1 << 20 {
                    out.clear();
                }
                encoding.record(black_box(records.next().unwrap()), &mut out).unwrap();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, encoders);
criterion_main!(benches);
