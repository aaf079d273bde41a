//! A function under measurement: its process, and Lambda's Runtime API around it, over plain HTTP as in Lambda itself.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::share::Group;

/// Longer than any step may take.
const PATIENCE: Duration = Duration::from_mins(5);
/// Log lines kept, to be shown where something goes wrong.
const LINES: usize = 40;
const FUNCTION: &str = "auto-instance-profile";

/// What is run, and how.
#[derive(Debug, Clone)]
pub struct Program {
    /// The program.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment, beside what Lambda sets for every function.
    pub settings: Vec<(String, String)>,
    /// What Lambda gives it.
    pub size: Size,
}

/// What Lambda gives a function, as the template sets it.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Its memory, by which its share of a processor goes.
    pub memory_mb: u32,
    /// How long an invocation may take.
    pub timeout: Duration,
}

impl Size {
    /// Of the function for events.
    pub const EVENTS: Self = Self { memory_mb: 128, timeout: Duration::from_mins(1) };
    /// Of the function for sweeps.
    pub const SWEEPS: Self = Self { memory_mb: 512, timeout: Duration::from_mins(15) };
}

/// The running function. It is killed when this is dropped, and its group removed after it.
pub struct Function {
    child: Child,
    pid: u32,
    group: Option<Group>,
    events: UnboundedSender<String>,
    said: UnboundedReceiver<Said>,
    log: Log,
    started: Instant,
    _servers: JoinSet<()>,
}

/// What the function did, or was done to it, and when.
#[derive(Debug)]
enum Said {
    Asked(Instant),
    Given(Instant),
    Answered(Instant, Result<Value, String>),
}

/// What the process used so far.
#[derive(Debug, Default, Clone, Copy)]
pub struct Usage {
    /// The time that its threads had of the processors.
    pub cpu: Duration,
    /// Pages that were mapped without a disk being read.
    pub faults: u64,
    /// How often it had to wait for its next share.
    pub throttled: u64,
}

type Log = Arc<Mutex<VecDeque<String>>>;

impl Function {
    /// Starts the program under a new Runtime API. The share begins with [`Function::asked`].
    pub async fn start(program: &Program, group: Option<Group>) -> Result<Self> {
        let listener =
            TcpListener::bind(("127.0.0.1", 0)).await.context("listening on loopback")?;
        let address = listener.local_addr()?.to_string();
        let (events, waiting) = mpsc::unbounded_channel();
        let (says, said) = mpsc::unbounded_channel();
        let api = Arc::new(RuntimeApi {
            waiting: tokio::sync::Mutex::new(waiting),
            says,
            timeout: program.size.timeout,
        });
        let mut servers = JoinSet::new();
        servers.spawn(accept(listener, api));

        let mut command = Command::new(&program.path);
        command
            .args(&program.arguments)
            // Nothing of the machine's own environment: no proxy, no profile, no credentials.
            .env_clear()
            .envs(lambda_variables())
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", program.size.memory_mb.to_string())
            .envs(program.settings.iter().map(|(name, value)| (name, value)))
            .env("AWS_LAMBDA_RUNTIME_API", address)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let started = Instant::now();
        let mut child =
            command.spawn().with_context(|| format!("starting {}", program.path.display()))?;
        let log = Log::default();
        if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
            servers.spawn(keep(out, Arc::clone(&log)));
            servers.spawn(keep(err, Arc::clone(&log)));
        }
        let pid = child.id().context("the function ended at once")?;
        Ok(Self { child, pid, group, events, said, log, started, _servers: servers })
    }

    /// Waits until the function asks for its first event: the end of INIT. From here on it has the share. Answers with the
    /// time since the start.
    pub async fn asked_first(&mut self) -> Result<Duration> {
        let at = self.asked().await?;
        if let Some(group) = &self.group {
            group.take(self.pid)?;
        }
        Ok(at - self.started)
    }

    /// Waits until the function asks for an event.
    pub async fn asked(&mut self) -> Result<Instant> {
        match self.next().await? {
            Said::Asked(at) => Ok(at),
            Said::Given(_) | Said::Answered(..) => bail!("an answer to nothing{}", self.log()),
        }
    }

    /// Hands out an event to a function that has asked for one. Answers with the time until its response was posted.
    pub async fn handle(&mut self, event: &Value) -> Result<Duration> {
        self.events.send(event.to_string()).context("the Runtime API is gone")?;
        let Said::Given(given) = self.next().await? else {
            bail!("the function did not wait for its event{}", self.log())
        };
        match self.next().await? {
            Said::Answered(at, Ok(answer)) => {
                if answer["batchItemFailures"].as_array().is_some_and(|failed| !failed.is_empty()) {
                    bail!("the event failed: {answer}{}", self.log());
                }
                Ok(at - given)
            }
            Said::Answered(_, Err(error)) => bail!("the event failed: {error}{}", self.log()),
            Said::Asked(_) | Said::Given(_) => bail!("asked without an answer{}", self.log()),
        }
    }

    /// What the process used so far.
    pub fn usage(&self) -> Usage {
        Usage {
            cpu: cpu_time(self.pid),
            faults: minor_faults(self.pid).unwrap_or_default(),
            throttled: self.group.as_ref().map_or(0, Group::throttled),
        }
    }

    /// The most memory that was resident at once, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no VmHWM")?;
        Ok(kib.trim().parse::<u64>()? * 1024)
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().fold("; its log:".to_owned(), |text, line| text + "\n  " + line)
    }

    /// Ends the function, and waits for that.
    pub async fn stop(mut self) -> Result<()> {
        self.child.kill().await.context("ending the function")
    }

    async fn next(&mut self) -> Result<Said> {
        tokio::select! {
            said = timeout(PATIENCE, self.said.recv()) => match said {
                Ok(said) => said.context("the Runtime API is gone"),
                Err(_) => bail!("nothing came for {PATIENCE:?}{}", self.log()),
            },
            status = self.child.wait() => {
                // Its last words may still be on their way.
                tokio::time::sleep(Duration::from_millis(50)).await;
                bail!("the function ended, {}{}", status?, self.log())
            }
        }
    }
}

/// What Lambda sets for every function.
fn lambda_variables() -> Vec<(&'static str, &'static str)> {
    vec![
        ("AWS_ACCESS_KEY_ID", "ASIAIOSFODNN7EXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY"),
        ("AWS_SESSION_TOKEN", "FwoGZXIvYXdzEXAMPLESESSIONTOKEN"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_LAMBDA_FUNCTION_NAME", FUNCTION),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
        ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
        ("AWS_LAMBDA_LOG_LEVEL", "INFO"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/auto-instance-profile"),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/11/02/[$LATEST]8476a536e9f411e8"),
        ("LANG", "en_US.UTF-8"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("TZ", ":UTC"),
    ]
}

/// The Runtime API, which reports what happens and when.
struct RuntimeApi {
    waiting: tokio::sync::Mutex<UnboundedReceiver<String>>,
    says: UnboundedSender<Said>,
    timeout: Duration,
}

impl RuntimeApi {
    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, hyper::Error> {
        const PREFIX: &str = "/2018-06-01/runtime/";
        let path = request.uri().path().strip_prefix(PREFIX).unwrap_or_default().to_owned();
        if path == "invocation/next" {
            return Ok(self.next().await);
        }
        let body = request.into_body().collect().await?.to_bytes();
        let answer = if path.ends_with("/response") {
            serde_json::from_slice(&body)
                .map_err(|error| format!("an answer that is no JSON: {error}"))
        } else {
            Err(format!("{path}: {}", String::from_utf8_lossy(&body)))
        };
        self.say(Said::Answered(Instant::now(), answer));
        Ok(respond(202, Full::default()))
    }

    async fn next(&self) -> Response<Full<Bytes>> {
        self.say(Said::Asked(Instant::now()));
        let Some(event) = self.waiting.lock().await.recv().await else {
            return respond(410, Full::default());
        };
        let deadline = wall_clock() + self.timeout;
        let mut response = respond(200, Full::from(event));
        for (name, value) in [
            ("lambda-runtime-aws-request-id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd"),
            ("lambda-runtime-deadline-ms", &deadline.as_millis().to_string()),
            (
                "lambda-runtime-invoked-function-arn",
                "arn:aws:lambda:us-east-1:123456789012:function:auto-instance-profile",
            ),
            (
                "lambda-runtime-trace-id",
                "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0",
            ),
            ("content-type", "application/json"),
        ] {
            let value = value.parse().expect("a header's value");
            response.headers_mut().insert(name, value);
        }
        self.say(Said::Given(Instant::now()));
        response
    }

    fn say(&self, said: Said) {
        // Nobody listens any more once the measurement is over.
        let _ = self.says.send(said);
    }
}

/// The time since 1970, which Lambda's deadline and a message's attributes are in.
#[expect(clippy::disallowed_methods, reason = "Lambda's deadline is a wall-clock time")]
#[must_use]
pub fn wall_clock() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

async fn accept(listener: TcpListener, api: Arc<RuntimeApi>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let api = Arc::clone(&api);
        connections.spawn(async move {
            let service = service_fn(|request| {
                let api = Arc::clone(&api);
                async move { Ok::<_, Infallible>(api.answer(request).await.unwrap_or_else(broken)) }
            });
            // An error here is the function's end.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// The answer to a request that broke off, which nobody will read.
fn broken(_: hyper::Error) -> Response<Full<Bytes>> {
    respond(400, Full::default())
}

fn respond(status: u16, body: Full<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(body);
    *response.status_mut() = status.try_into().expect("a status of HTTP");
    response
}

async fn keep(output: impl AsyncRead + Unpin, log: Log) {
    let mut read = BufReader::new(output).lines();
    while let Ok(Some(line)) = read.next_line().await {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == LINES {
            log.pop_front();
        }
        log.push_back(line);
    }
}

/// What the live threads of a process have used of the processors. Where the kernel does not say, nothing.
fn cpu_time(pid: u32) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let nanoseconds = threads.flatten().filter_map(|thread| {
        let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Pages that were mapped without a disk being read.
fn minor_faults(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The fields after the name, which may hold anything: state, ppid, pgrp, session, tty, tpgid, flags, minflt.
    stat.rsplit_once(") ")?.1.split(' ').nth(7)?.parse().ok()
}
