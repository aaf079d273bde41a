//! The Lambda function's binary: composition only.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use auto_instance_profile::aws::Aws;
use auto_instance_profile::config::Config;
use auto_instance_profile::failure::chain;
use auto_instance_profile::handler::Handler;
use lambda_runtime::tracing::subscriber::filter::{LevelFilter, Targets};
use lambda_runtime::tracing::subscriber::prelude::*;
use lambda_runtime::tracing::subscriber::{fmt, registry};
use lambda_runtime::{Error, service_fn};

fn main() -> ExitCode {
    start_logging();
    let config = match Config::read(setting, |path| fs::read_to_string(path)) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!("cannot start: {}", chain(&error));
            return ExitCode::FAILURE;
        }
    };
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("stopped: {error}");
            ExitCode::FAILURE
        }
    }
}

// Lambda gives a function one invocation at a time and, below 1.8 GB, less than one processor.
#[tokio::main(flavor = "current_thread")]
async fn serve(config: Config) -> Result<(), Error> {
    let handler = &Handler::new(config, Aws::from_env().await).with_metrics(write_line);
    // Lambda gives a start more processor than an event.
    handler.get_ready().await;
    lambda_runtime::run(service_fn(move |event| handler.handle(event))).await
}

#[expect(clippy::disallowed_methods, reason = "here, and only here, the environment is read")]
fn setting(name: &str) -> Option<String> {
    // A value that is no Unicode must be refused as a bad value, not taken for an absent one.
    env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// Where the log's lines go, too, each of them whole.
fn write_line(line: &str) {
    // Where it cannot be written, neither can a complaint.
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// One JSON or text line an event, as Lambda's logging controls ask for. Libraries speak from a warning up, whatever the
/// level: at their lower levels they write whole payloads and requests.
fn start_logging() {
    let level = setting("AWS_LAMBDA_LOG_LEVEL")
        .and_then(|level| level.parse().ok())
        .unwrap_or(LevelFilter::INFO);
    let targets = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("auto_instance_profile", level)
        .with_target("bootstrap", level)
        // The span that carries the request id.
        .with_target("lambda_runtime::layers::trace", LevelFilter::INFO)
        // The runtime would write every failed invocation a second time.
        .with_target("lambda_runtime::layers::panic", LevelFilter::OFF);
    let is_json =
        setting("AWS_LAMBDA_LOG_FORMAT").is_some_and(|format| format.eq_ignore_ascii_case("json"));
    if is_json {
        // Lambda reads `timestamp` and `level` of each line.
        let layer =
            fmt::layer().json().flatten_event(true).with_target(false).with_span_list(false);
        registry().with(layer.with_filter(targets)).init();
    } else {
        let layer = fmt::layer().with_target(false).with_ansi(false).without_time();
        registry().with(layer.with_filter(targets)).init();
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!("a defect: {panic}")));
}
