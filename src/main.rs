//! The Lambda function's binary: composition only.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use auto_instance_profile::aws::Aws;
use auto_instance_profile::config::Config;
use auto_instance_profile::failure::chain;
use auto_instance_profile::handler::Handler;
use auto_instance_profile::redaction::{clean, clean_json, keep_secret, one_line};
use lambda_runtime::tracing::field::Field;
use lambda_runtime::tracing::subscriber::field::MakeExt as _;
use lambda_runtime::tracing::subscriber::filter::{LevelFilter, Targets};
use lambda_runtime::tracing::subscriber::fmt::format::{Writer, debug_fn};
use lambda_runtime::tracing::subscriber::prelude::*;
use lambda_runtime::tracing::subscriber::{fmt, registry};
use lambda_runtime::{Error, service_fn};

/// What the function is given to prove who it is.
const CREDENTIALS: [&str; 3] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

fn main() -> ExitCode {
    for secret in CREDENTIALS.into_iter().filter_map(setting) {
        keep_secret(&secret);
    }
    start_logging();
    let config = match Config::read(setting, |path| fs::read_to_string(path)) {
        Ok(config) => config,
        Err(error) => {
            // A policy file's complaints are a line each.
            for line in chain(&error).lines() {
                tracing::error!("cannot start: {line}");
            }
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
    let handler = &Handler::new(config, Aws::from_env().await).with_metrics(write_metrics);
    // Lambda gives a start more processor than an event.
    handler.get_ready().await;
    lambda_runtime::run(service_fn(move |event| handler.handle(event))).await
}

#[expect(clippy::disallowed_methods, reason = "here, and only here, the environment is read")]
fn setting(name: &str) -> Option<String> {
    // A value that is no Unicode must be refused as a bad value, not taken for an absent one.
    env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// A metric's document is a line of the log, in JSON whatever the log's format.
fn write_metrics(document: &str) {
    // Where it cannot be written, neither can a complaint.
    let _ = writeln!(io::stdout().lock(), "{}", clean_json(document));
}

/// Writes what it is given, an event of the log, as one line, whatever anybody put into it. The subscriber hands an event
/// over in one piece.
struct OneLine {
    to_line: fn(&str) -> String,
}

impl Write for OneLine {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = (self.to_line)(text.strip_suffix('\n').unwrap_or(&text));
        writeln!(io::stdout().lock(), "{line}")?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// A field of an event in the text format: as the subscriber writes it, and without credentials.
fn write_field(
    writer: &mut Writer<'_>,
    field: &Field,
    value: &dyn std::fmt::Debug,
) -> std::fmt::Result {
    let value = clean(&format!("{value:?}"));
    match field.name() {
        "message" => write!(writer, "{value}"),
        name => write!(writer, "{}={value}", name.strip_prefix("r#").unwrap_or(name)),
    }
}

/// One JSON or text line an event, as Lambda's logging controls ask for. Libraries speak from a warning up, whatever the
/// level: at their lower levels they write whole payloads and requests.
fn start_logging() {
    let level = match setting("AWS_LAMBDA_LOG_LEVEL").as_deref() {
        // Lambda has a level more, for lines that no code of ours writes.
        Some("FATAL") => LevelFilter::ERROR,
        level => level.and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::INFO),
    };
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
        let layer = fmt::layer()
            .json()
            .flatten_event(true)
            .with_target(false)
            .with_span_list(false)
            .with_writer(|| OneLine { to_line: clean_json });
        registry().with(layer.with_filter(targets)).init();
    } else {
        let layer = fmt::layer()
            .fmt_fields(debug_fn(write_field).delimited(" "))
            .with_target(false)
            .with_ansi(false)
            .without_time()
            .with_writer(|| OneLine { to_line: |line| one_line(line).into_owned() });
        registry().with(layer.with_filter(targets)).init();
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!("a defect: {panic}")));
}
