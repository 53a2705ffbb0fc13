//! The `ship` example as scripts use it: what it ends with, and what it writes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test says why it fails by its panic")]

#[path = "../examples/ship.rs"]
#[allow(dead_code, unused_imports, reason = "a test has no `main`")]
mod ship;

use clap::Parser;
use logship::OffsetStore;
use logship::state::file::FileOffsets;
use tokio_util::sync::CancellationToken;

const CONFIG: &str =
    "exporters:\n  - {id: a, type: file, dir: DIR/a, format: json}\n  - {id: b, type: file, dir: DIR/b}\n";
const FLOW: &str = "id: f\nnamespace: n\ntasks:\n  - id: logs\n    type: io.kestra.plugin.ee.core.log.LogShipper\n    \
                    logExporters:\n      - {id: a, type: io.kestra.plugin.ee.elasticsearch.LogExporter, indexName: i,\n         \
                    chunk: 5, connection: {hosts: [\"http://127.0.0.1:1\"]}}\n";

struct Place(tempfile::TempDir);

impl Place {
    async fn new() -> Self {
        let place = Place(tempfile::tempdir().unwrap());
        ship::make_rows(&place.path("logs.db")).await.unwrap();
        place
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn files(&self, folder: &str) -> usize {
        std::fs::read_dir(self.path(folder)).map_or(0, Iterator::count)
    }

    /// What the program ends with.
    async fn ship(&self, text: &str, arguments: &[&str], stop: &CancellationToken) -> u8 {
        let file = self.path("config.yaml");
        std::fs::write(&file, text.replace("DIR", &self.path(""))).unwrap();
        let (logs, offsets) = (self.path("logs.db"), self.path("offsets"));
        let stores = ["ship", &file, "--logs", &logs, "--offsets", &offsets];
        let all = stores.iter().chain(arguments).copied();
        let arguments = ship::Arguments::try_parse_from(all).unwrap();
        ship::run(&arguments, stop).await.unwrap_or_else(|error| ship::code_of(&error))
    }
}

#[tokio::test]
async fn a_configuration_ships_plans_resets_and_ships_a_range_again() {
    let (place, go_on) = (Place::new().await, CancellationToken::new());
    assert_eq!(place.ship(CONFIG, &["--plan"], &go_on).await, 0);
    assert_eq!((place.files("a"), place.files("b")), (0, 0));
    assert_eq!(place.ship(CONFIG, &["--json"], &go_on).await, 0);
    assert_eq!((place.files("a"), place.files("b")), (1, 1));
    assert_eq!(place.ship(CONFIG, &["--backfill", "2h", "--to", "b"], &go_on).await, 0);
    assert_eq!((place.files("a"), place.files("b")), (1, 2));
    std::fs::remove_dir_all(place.path("a")).unwrap();
    assert_eq!(place.ship(CONFIG, &[], &go_on).await, 0);
    assert_eq!(place.files("a"), 0);
    assert_eq!(place.ship(CONFIG, &["--reset", "--to", "a"], &go_on).await, 0);
    assert_eq!((place.files("a"), place.files("b")), (1, 2));
}

#[tokio::test]
async fn what_it_ends_with_says_what_to_do() {
    let (place, go_on) = (Place::new().await, CancellationToken::new());
    assert_eq!(place.ship("exporters: 5", &[], &go_on).await, 2);
    assert_eq!(place.ship(CONFIG, &["--backfill", "2h", "--to", "c"], &go_on).await, 2);
    assert_eq!(place.ship(CONFIG, &["--backfill", "soon", "--to", "a"], &go_on).await, 2);
    // Nothing is at that address, and the engine's patience is cut short by the flow.
    let flow = FLOW.replace("    logExporters", "    timeout: PT0.2S\n    logExporters");
    assert_eq!(place.ship(&flow, &[], &go_on).await, 4);
    let stopped = CancellationToken::new();
    stopped.cancel();
    assert_eq!(place.ship(CONFIG, &[], &stopped).await, 4);
    assert_eq!(place.ship(CONFIG, &["--follow"], &stopped).await, 0);
    let offsets = FileOffsets::new(place.path("offsets"));
    let key = logship::OffsetKey::new("LogShipper-state").unwrap();
    let lease = offsets.acquire(&key, "somebody else", std::time::Duration::from_secs(60)).await.unwrap();
    assert_eq!(place.ship(CONFIG, &[], &go_on).await, 3);
    offsets.release(&lease).await.unwrap();
    // A lane that cannot go on: its folder is a file.
    std::fs::write(place.path("a"), "").unwrap();
    assert_eq!(place.ship(CONFIG, &[], &go_on).await, 1);
    assert_eq!(place.files("b"), 1);
}
