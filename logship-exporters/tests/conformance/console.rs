use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use logship_core::{Exporter, async_trait};
use logship_exporters::console::{Console, ConsoleFormat};
use logship_testkit::conformance::exporter::{ExporterFixture, World};
use logship_testkit::exporter_conformance;

#[derive(Clone, Default)]
struct Screen {
    written: Arc<Mutex<Vec<u8>>>,
    /// How many writes meet a closed pipe.
    closed: Arc<Mutex<usize>>,
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut closed = self.closed.lock().unwrap();
        if *closed > 0 {
            *closed -= 1;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.written.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Fixture {
    screen: Screen,
    format: ConsoleFormat,
}

#[async_trait]
impl ExporterFixture for Fixture {
    async fn open(&self) -> Arc<dyn Exporter> {
        Arc::new(Console::over(self.screen.clone(), self.format, true))
    }

    async fn held(&self) -> Vec<String> {
        let written = self.screen.written.lock().unwrap().clone();
        String::from_utf8(written).unwrap().lines().map(str::to_owned).collect()
    }

    async fn play(&self, world: World, requests: usize) -> bool {
        if world == World::Refused {
            *self.screen.closed.lock().unwrap() = requests;
        }
        world == World::Refused
    }
}

exporter_conformance!(text, async |_| Some(Fixture { screen: Screen::default(), format: ConsoleFormat::Text }));
exporter_conformance!(json, async |_| Some(Fixture { screen: Screen::default(), format: ConsoleFormat::Json }));
