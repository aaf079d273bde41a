//! The built function under a Lambda Runtime API of our own: invocations in, answers, errors and log lines out.

use std::collections::HashMap;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

pub const FUNCTION_ARN: &str =
    "arn:aws:lambda:us-east-1:123456789012:function:auto-instance-profile";

/// What the function is given as credentials; none of it may show in a log.
pub const CREDENTIALS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "ASIAIOSFODNN7EXAMPLE"),
    ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY"),
    ("AWS_SESSION_TOKEN", "FwoGZXIvYXdzEXAMPLESESSIONTOKEN"),
];

/// Longer than any invocation may take: a test that gets here has found a function that hangs.
const PATIENCE: Duration = Duration::from_secs(40);

/// One invocation, and what Lambda says about it.
pub struct Invocation {
    payload: Vec<u8>,
    deadline_ms: Option<String>,
    function_arn: &'static str,
}

/// What the function reported to Lambda as an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub error_type: String,
    pub error_message: String,
}

/// The running function; it is killed when this is dropped.
pub struct Function {
    child: Child,
    invocations: mpsc::UnboundedSender<(Invocation, oneshot::Sender<Reply>)>,
    /// Whether it has asked for an invocation yet.
    has_asked: watch::Receiver<bool>,
    log: Log,
    server: JoinHandle<()>,
}

type Reply = Result<Value, Failure>;

/// The log lines so far, and the tasks that read them.
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    readers: JoinSet<()>,
}

impl Invocation {
    /// Due in half a minute, as the template's timeout would have it.
    #[expect(clippy::needless_pass_by_value, reason = "a test hands its event over")]
    pub fn of(payload: impl ToString) -> Self {
        Self::of_bytes(payload.to_string().into_bytes())
    }

    pub fn of_bytes(payload: Vec<u8>) -> Self {
        Self { payload, deadline_ms: None, function_arn: FUNCTION_ARN }
            .due_in(Duration::from_secs(30))
    }

    #[expect(clippy::disallowed_methods, reason = "Lambda's deadline is a wall-clock time")]
    pub fn due_in(self, time: Duration) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        self.due_at_ms(&(now + time).as_millis().to_string())
    }

    /// The deadline header, word for word.
    pub fn due_at_ms(mut self, header: &str) -> Self {
        self.deadline_ms = Some(header.to_owned());
        self
    }

    pub fn of_function(mut self, arn: &'static str) -> Self {
        self.function_arn = arn;
        self
    }
}

impl Function {
    /// Starts the built binary against this endpoint with these settings, which win over Lambda's own.
    pub async fn start(endpoint: &str, settings: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (invocations, waiting) = mpsc::unbounded_channel();
        let (asks, has_asked) = watch::channel(false);
        let api = Arc::new(RuntimeApi::giving_out(waiting, asks));
        let server = tokio::spawn(accept(listener, api));
        let (child, log) = spawn(&address, endpoint, settings);
        Self { child, invocations, has_asked, log, server }
    }

    /// Waits for its start to be over: it asks for its first invocation.
    pub async fn ready(&mut self) {
        tokio::select! {
            asked = timeout(PATIENCE, self.has_asked.wait_for(|has_asked| *has_asked)) => match asked {
                Ok(asked) => drop(asked.unwrap()),
                Err(late) => panic!("not ready: {late}; log: {:#?}", self.log.so_far()),
            },
            status = self.child.wait() => panic!("exited, {status:?}; log: {:#?}", self.log.so_far()),
        }
    }

    pub async fn invoke(&mut self, payload: impl ToString) -> Reply {
        self.take(Invocation::of(payload)).await
    }

    pub async fn take(&mut self, invocation: Invocation) -> Reply {
        let (answer, answered) = oneshot::channel();
        assert!(self.invocations.send((invocation, answer)).is_ok(), "the runtime API is gone");
        tokio::select! {
            reply = timeout(PATIENCE, answered) => match reply {
                Ok(reply) => reply.unwrap(),
                Err(late) => panic!("no answer: {late}; log: {:#?}", self.log.so_far()),
            },
            status = self.child.wait() => panic!("exited, {status:?}; log: {:#?}", self.log.so_far()),
        }
    }

    /// The most memory that it ever held, in bytes; nothing, where the machine does not say.
    pub fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    }

    /// Ends the function and answers with everything it logged.
    pub async fn stop(mut self) -> Vec<String> {
        self.child.kill().await.unwrap();
        self.log.read_to_the_end().await
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Starts the binary with settings that should stop it, and waits for that.
pub async fn run_to_its_end(settings: &[(&str, &str)]) -> (ExitStatus, Vec<String>) {
    // Nobody listens at port 9; a function that starts all the same fails there, later and with other words.
    let (mut child, mut log) = spawn("127.0.0.1:9", "http://127.0.0.1:9", settings);
    let status = timeout(PATIENCE, child.wait()).await.expect("the function should have ended");
    (status.unwrap(), log.read_to_the_end().await)
}

fn spawn(runtime_api: &str, endpoint: &str, settings: &[(&str, &str)]) -> (Child, Log) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_bootstrap"))
        // Nothing of the machine's own environment: no proxy, no profile, no credentials.
        .env_clear()
        .envs(CREDENTIALS)
        .env("AWS_ENDPOINT_URL", endpoint)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_LAMBDA_RUNTIME_API", runtime_api)
        .env("AWS_LAMBDA_FUNCTION_NAME", "auto-instance-profile")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        .env("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/auto-instance-profile")
        .env("AWS_LAMBDA_LOG_STREAM_NAME", "2026/11/02/[$LATEST]0")
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = Log { lines: Arc::default(), readers: JoinSet::new() };
    log.read(child.stdout.take().unwrap());
    log.read(child.stderr.take().unwrap());
    (child, log)
}

impl Log {
    fn read(&mut self, output: impl AsyncRead + Unpin + Send + 'static) {
        let lines = Arc::clone(&self.lines);
        self.readers.spawn(async move {
            let mut read = BufReader::new(output).lines();
            while let Ok(Some(line)) = read.next_line().await {
                lines.lock().unwrap().push(line);
            }
        });
    }

    fn so_far(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    async fn read_to_the_end(&mut self) -> Vec<String> {
        while self.readers.join_next().await.is_some() {}
        self.so_far()
    }
}

/// Invocations waiting to be asked for, and those under way.
struct RuntimeApi {
    waiting: tokio::sync::Mutex<mpsc::UnboundedReceiver<(Invocation, oneshot::Sender<Reply>)>>,
    asks: watch::Sender<bool>,
    under_way: Mutex<HashMap<String, oneshot::Sender<Reply>>>,
    given_out: AtomicU32,
}

impl RuntimeApi {
    fn giving_out(
        waiting: mpsc::UnboundedReceiver<(Invocation, oneshot::Sender<Reply>)>,
        asks: watch::Sender<bool>,
    ) -> Self {
        Self {
            waiting: tokio::sync::Mutex::new(waiting),
            asks,
            under_way: Mutex::default(),
            given_out: AtomicU32::new(0),
        }
    }

    async fn answer(&self, request: hyper::Request<Incoming>) -> hyper::Response<Full<Bytes>> {
        const PREFIX: &str = "/2018-06-01/runtime/invocation/";
        let path = request.uri().path().strip_prefix(PREFIX).unwrap_or_default().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        match path.split('/').collect::<Vec<_>>()[..] {
            ["next"] => self.next().await,
            [id, "response"] => {
                self.end(id, Ok(serde_json::from_slice(&body).expect("an answer is JSON")))
            }
            [id, "error"] => {
                let error: Value = serde_json::from_slice(&body).expect("an error is JSON");
                let text = |field: &str| error[field].as_str().unwrap().to_owned();
                let (error_type, error_message) = (text("errorType"), text("errorMessage"));
                self.end(id, Err(Failure { error_type, error_message }))
            }
            _ => respond(404),
        }
    }

    async fn next(&self) -> hyper::Response<Full<Bytes>> {
        self.asks.send_replace(true);
        let Some((invocation, answer)) = self.waiting.lock().await.recv().await else {
            return respond(410);
        };
        let number = self.given_out.fetch_add(1, Ordering::Relaxed);
        let id = format!("8476a536-e9f4-11e8-9739-{number:012}");
        self.under_way.lock().unwrap().insert(id.clone(), answer);
        let mut response = hyper::Response::builder();
        if let Some(deadline) = invocation.deadline_ms {
            response = response.header("Lambda-Runtime-Deadline-Ms", deadline);
        }
        response
            .header("Lambda-Runtime-Aws-Request-Id", id)
            .header("Lambda-Runtime-Invoked-Function-Arn", invocation.function_arn)
            .header("Lambda-Runtime-Trace-Id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700")
            .header("content-type", "application/json")
            .body(Full::from(invocation.payload))
            .unwrap()
    }

    fn end(&self, id: &str, reply: Reply) -> hyper::Response<Full<Bytes>> {
        match self.under_way.lock().unwrap().remove(id) {
            Some(answer) => {
                // The test may have given up on it.
                let _ = answer.send(reply);
                respond(202)
            }
            None => respond(400),
        }
    }
}

async fn accept(listener: TcpListener, api: Arc<RuntimeApi>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let api = Arc::clone(&api);
        connections.spawn(async move {
            let service = service_fn(|request| {
                let api = Arc::clone(&api);
                async move { Ok::<_, std::convert::Infallible>(api.answer(request).await) }
            });
            // An error here is the function's end.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn respond(status: u16) -> hyper::Response<Full<Bytes>> {
    hyper::Response::builder().status(status).body(Full::default()).unwrap()
}
