use std::fs;
use std::sync::Arc;

use logship_core::{Exporter, async_trait};
use logship_exporters::file::{FileConfig, FileExporter};
use logship_testkit::conformance::exporter::{ExporterFixture, Request, World};
use logship_testkit::exporter_conformance;
use tempfile::TempDir;

struct Fixture(TempDir);

impl Fixture {
    /// What is in each file that can be seen.
    fn files(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.0.path().join("logs")) else { return Vec::new() };
        let paths = entries.map(|entry| entry.unwrap().path());
        let is_seen = |path: &std::path::PathBuf| !path.file_name().unwrap().to_string_lossy().starts_with('.');
        paths.filter(is_seen).map(|path| fs::read_to_string(path).unwrap()).collect()
    }
}

#[async_trait]
impl ExporterFixture for Fixture {
    async fn open(&self) -> Arc<dyn Exporter> {
        let (dir, default) = (self.0.path().join("logs"), FileConfig::default());
        Arc::new(FileExporter::new(FileConfig { dir, max_lines_per_file: 30, max_bytes_per_file: 8_000, ..default }))
    }

    async fn held(&self) -> Vec<String> {
        self.files().iter().flat_map(|text| text.lines()).map(str::to_owned).collect()
    }

    /// Where the folder is to be, there is a file.
    async fn play(&self, world: World, _: usize) -> bool {
        let is_played = world == World::Refused && self.files().is_empty();
        if is_played {
            let _ = fs::remove_dir_all(self.0.path().join("logs"));
            fs::write(self.0.path().join("logs"), "").unwrap();
        }
        is_played
    }

    async fn requests(&self) -> Option<Vec<Request>> {
        let request =
            |text: &String| Request { records: text.lines().count(), body_bytes: text.len(), wire_bytes: text.len() };
        Some(self.files().iter().map(request).collect())
    }
}

exporter_conformance!(async |_| Some(Fixture(tempfile::tempdir().unwrap())));
