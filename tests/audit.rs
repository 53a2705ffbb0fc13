//! K22: audit logs of an orchestrator, by the kind of resource, to the same exporters as its logs, with an offset of
//! their own.

#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

use logship::config::ShipperConfig;
use logship::sources::audit;
use logship::sources::sqlite::{SqliteConfig, SqliteSource, TableMapping};
use logship::state::file::FileOffsets;
use logship::{BuildContext, Lane, LogShipper, Query, registry};
use logship_testkit::strict::elasticsearch::StrictElasticsearch;
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tempfile::TempDir;

async fn database(dir: &TempDir, table: &str) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(dir.path().join("audit.db")).create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(table)).execute(&pool).await.unwrap();
    pool
}

/// An audit log as Kestra's API has it.
fn kestra(number: usize, resource: &Value, namespace: &str) -> Value {
    let mut detail = json!({"type": "CRUD", "id": format!("thing-{number}"), "namespace": namespace});
    detail.as_object_mut().unwrap().extend(resource.as_object().unwrap().clone());
    json!({
        "id": format!("log-{number}"), "type": "UPDATE", "date": format!("2026-11-20T08:30:{number:02}.000000Z"),
        "userId": "ada", "tenantId": "main", "ipAddress": null, "detail": detail,
        // One document's value is a number, another's a text: no index takes both.
        "appliedPatch": [{"op": "replace", "path": "/x", "value": if number.is_multiple_of(2) { json!(number) } else { json!("x") }}],
        "revertPatch": [],
    })
}

const KINDS: [(&str, &str, &str); 6] = [
    ("resource", "FLOW", "company"),
    ("resourceType", "FLOW", "company.team"),
    ("resource", "KV_STORE", "company"),
    ("resource", "KVSTORE", "companyx"),
    ("resource", "SECRET", "company"),
    ("resource", "FLOW", "other"),
];

#[tokio::test]
async fn k22_audit_logs_of_kestra_are_shipped_by_resource_and_namespace() {
    let dir = tempfile::tempdir().unwrap();
    let pool = database(&dir, "create table auditlogs (key text primary key, date text not null, value text)").await;
    for (number, (field, kind, namespace)) in KINDS.into_iter().enumerate() {
        let value = kestra(number, &json!({field: kind}), namespace);
        let insert = sqlx::query("insert into auditlogs values (?, ?, ?)").bind(format!("k{number}"));
        insert.bind(value["date"].as_str()).bind(value.to_string()).execute(&pool).await.unwrap();
    }
    let elasticsearch = StrictElasticsearch::start().await.unwrap();
    let query = audit::resources(Query::all().namespace("company"), ["flow", "kv store"]);
    let config: ShipperConfig = serde_json::from_value(json!({
        "source": {"type": "sqlite", "path": dir.path().join("audit.db"), "mapping": "kestra_audit"},
        "offsets": {"type": "file", "dir": dir.path().join("offsets")}, "offset_key": "AuditLogShipper-state",
        "query": query, "lookback_secs": 0,
        "exporters": [{"id": "es", "type": "elasticsearch", "hosts": [elasticsearch.url()], "index": "audit"}],
    }))
    .unwrap();
    let shipper = config.build(&registry(), &BuildContext::default()).unwrap();
    let report = shipper.run_once().await.unwrap().require_complete().unwrap();
    assert_eq!(report.lane("es").unwrap().accepted, 3, "{report}");
    let documents = elasticsearch.documents("audit");
    let mut shipped: Vec<String> = documents.values().map(Value::to_string).collect();
    shipped.sort();
    for (number, text) in [(0, &shipped[0]), (1, &shipped[1]), (2, &shipped[2])] {
        let (_, kind, namespace) = KINDS[number];
        for part in ["UPDATE", "ada", kind, namespace, &format!("thing-{number}"), "replace"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}

#[tokio::test]
async fn k22_audit_records_of_any_table_are_shipped_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let pool = database(
        &dir,
        "create table audit_log (id text primary key, at text, action text, resource_type text, user_id text, \
         namespace text, before text, after text);
         insert into audit_log values
           ('1', '2026-11-20T08:30:00Z', 'UPDATE', 'FLOW', 'ada', 'company', 'revision 1', 'revision 2'),
           ('2', '2026-11-20T08:30:01Z', 'DELETE', 'SECRET', 'bob', 'company', 'there', null);",
    )
    .await;
    let source = SqliteConfig { path: dir.path().join("audit.db"), mapping: "audit".parse::<TableMapping>().unwrap() };
    let elasticsearch = StrictElasticsearch::start().await.unwrap();
    let fields = json!({"hosts": [elasticsearch.url()], "index": "audit"});
    let exporter = registry()
        .exporter("elasticsearch", serde_json::from_value(fields).unwrap(), &BuildContext::default())
        .unwrap();
    let shipper = LogShipper::builder(SqliteSource::open(source).unwrap())
        .offsets(FileOffsets::new(dir.path().join("offsets")))
        .offset_key("AuditLogShipper-state")
        .query(audit::resources(Query::all(), ["FLOW"]))
        .lookback(None)
        .delete_shipped(true)
        .lane(Lane::shared("es", exporter))
        .build()
        .unwrap();
    shipper.run_once().await.unwrap().require_complete().unwrap();
    let documents = elasticsearch.documents("audit");
    let text = documents.values().next().unwrap().to_string();
    assert_eq!(documents.len(), 1);
    for part in ["UPDATE", "FLOW", "ada", "company", "revision 1", "revision 2"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let left: Vec<String> = sqlx::query_scalar("select id from audit_log").fetch_all(&pool).await.unwrap();
    assert_eq!(left, ["2"], "what was shipped is deleted, and nothing else");
}

#[test]
fn a_mapping_of_an_unknown_name_lists_the_known_ones() {
    let fields = json!({"path": "/dev/null", "mapping": "kestra_audits"});
    let error = registry().source("sqlite", serde_json::from_value(fields).unwrap(), &BuildContext::default());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("mapping") && error.contains("kestra_audit"), "{error}");
}
