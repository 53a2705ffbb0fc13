//! Flows of Kestra's and configurations in files: something that can be shown, or an error that says something.
#![no_main]

use libfuzzer_sys::fuzz_target;
use logship::config::{ConfigFile, Syntax};
use logship::kestra::{Flow, FlowContext};

fuzz_target!(|text: &str| {
    let context = FlowContext::new().variable("region", "eu-west-1").output("task", "file:///a");
    match Flow::parse(text, &context) {
        Ok(flow) => {
            assert!(!format!("{flow:?}").is_empty());
            for task in &flow.tasks {
                let _ = task.properties(&context);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    for syntax in [Syntax::Yaml, Syntax::Toml] {
        if let Err(error) = ConfigFile::parse(text, syntax) {
            assert!(!error.to_string().is_empty());
        }
    }
});
