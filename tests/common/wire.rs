//! The world over HTTP: EC2's Query API, IAM's, and the JSON of SQS and EventBridge on one loopback port, told apart by
//! what they are asked.
//!
//! Strict where AWS is: an unsigned request, an unknown parameter or an illegal value is refused with AWS's code, so that a
//! call the live service would not take does not pass here either.

pub mod bus;
mod full;
mod spoil;
pub mod sqs;
mod tls;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;

use self::bus::Told;
use self::sqs::{Letter, Sent, Sqs};
use super::world::{ACCOUNT, Association, AwsError, Instance, Profile, World, Write};

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It is refused with this status, code and message; nothing is carried out.
    Refuses(u16, &'static str, &'static str),
    /// The connection breaks before anything is carried out.
    BreaksBefore,
    /// It is carried out; then the connection breaks.
    BreaksAfter,
    /// Something on the way answers with this status and this page; nothing is carried out.
    Intercepts(u16, &'static str),
    /// It is carried out; the answer says success and is no XML.
    Garbles,
    /// It is carried out; the answer ends in the middle, as if that were its end.
    CutsShort,
    /// It is carried out; the answer says success and nothing else.
    Empties,
    /// It is carried out; the answer is right, and says that it is a web page.
    Mislabels,
    /// It is carried out; the answer is right, and has so many bytes more than it needs.
    Floods(usize),
    /// It is carried out; the answer trickles in, ten bytes a second.
    Drips,
    /// It is carried out after this time.
    Delays(Duration),
    /// It is never answered, and nothing is carried out.
    Hangs,
    /// Of a batch for SQS the entries at these places fail with this code; the others are carried out.
    FailsEntries(&'static [usize], &'static str),
}

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Request {
    pub action: String,
    /// Of a Query API.
    pub parameters: BTreeMap<String, String>,
    /// The Region it was signed for; nothing, where it was not signed.
    pub region: String,
    /// The connection it came over, counted from 0.
    pub connection: usize,
    pub at: Instant,
}

/// EC2, IAM, SQS and EventBridge over one world; they stop when this is dropped.
pub struct Wire {
    endpoint: String,
    roots: Option<PathBuf>,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    world: Mutex<World>,
    sqs: Mutex<Sqs>,
    told: Mutex<Vec<Vec<Told>>>,
    requests: Mutex<Vec<Request>>,
    /// Those of a function's start, where it is kept apart.
    requests_at_start: Mutex<Vec<Request>>,
    is_start: AtomicBool,
    connections: AtomicUsize,
    faults: Mutex<Vec<Planned>>,
    buckets: Mutex<Vec<(&'static str, Bucket)>>,
    /// By the token that asks for it.
    pages: Mutex<HashMap<String, Rest>>,
    /// Whether instances are shown with all that EC2 says about them.
    in_full: AtomicBool,
    /// The least bytes that EC2 says about an instance in full.
    weight: AtomicUsize,
    tokens: AtomicU32,
    /// The longest that a request is under way, each way.
    jitter: Mutex<Duration>,
}

/// A list that is not given out to its end yet, and the place where the rest begins.
type Rest = (Arc<Vec<String>>, String);

/// A fault, and the requests that meet it.
struct Planned {
    action: &'static str,
    /// A value that one of the parameters must have.
    about: Option<&'static str>,
    at_start: bool,
    lasts: Lasts,
    fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasts {
    Once,
    Always,
}

/// The tokens that EC2 gives an account for one of its APIs.
struct Bucket {
    capacity: f64,
    per_second: f64,
    tokens: f64,
    filled_at: Instant,
    /// Requests that found it empty.
    turned_away: usize,
}

impl Wire {
    pub async fn serve(world: World) -> Self {
        Self::serve_on(world, "http", None).await
    }

    /// Over TLS, with a certificate that [`Self::roots`] vouch for.
    pub async fn serve_tls(world: World) -> Self {
        let (tls, roots) = tls::set_up();
        let mut wire = Self::serve_on(world, "https", Some(tls)).await;
        let port = wire.endpoint.rsplit(':').next().unwrap();
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("roots-{port}.pem"));
        std::fs::write(&path, roots).unwrap();
        wire.roots = Some(path);
        wire
    }

    async fn serve_on(world: World, scheme: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = format!("{scheme}://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            world: Mutex::new(world),
            sqs: Mutex::default(),
            told: Mutex::default(),
            requests: Mutex::default(),
            requests_at_start: Mutex::default(),
            is_start: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            faults: Mutex::default(),
            buckets: Mutex::default(),
            pages: Mutex::default(),
            in_full: AtomicBool::new(false),
            weight: AtomicUsize::new(0),
            tokens: AtomicU32::new(0),
            jitter: Mutex::default(),
        });
        let server = tokio::spawn(accept(listener, tls, Arc::clone(&shared)));
        Self { endpoint, roots: None, shared, server }
    }

    /// The next such request meets this fault.
    pub fn once(self, action: &'static str, fault: Fault) -> Self {
        self.plan(Planned { action, about: None, at_start: false, lasts: Lasts::Once, fault })
    }

    /// Every such request meets this fault.
    pub fn always(self, action: &'static str, fault: Fault) -> Self {
        self.plan(Planned { action, about: None, at_start: false, lasts: Lasts::Always, fault })
    }

    /// Every such request with this value for one of its parameters meets this fault.
    pub fn always_about(self, action: &'static str, value: &'static str, fault: Fault) -> Self {
        let about = Some(value);
        self.plan(Planned { action, about, at_start: false, lasts: Lasts::Always, fault })
    }

    /// Every such request meets this fault while a function starts.
    pub fn at_start(self, action: &'static str, fault: Fault) -> Self {
        self.plan(Planned { action, about: None, at_start: true, lasts: Lasts::Always, fault })
    }

    fn plan(self, planned: Planned) -> Self {
        self.shared.faults.lock().unwrap().push(planned);
        self
    }

    /// All is well from now on: no fault is met any more.
    pub fn mend(&self) {
        self.shared.faults.lock().unwrap().clear();
    }

    /// Each request and each answer is under way for some time up to this.
    pub fn with_jitter(self, longest: Duration) -> Self {
        *self.shared.jitter.lock().unwrap() = longest;
        self
    }

    /// Such requests take tokens from a bucket that is full at first: one that finds it empty is throttled.
    pub fn with_bucket(self, action: &'static str, capacity: f64, per_second: f64) -> Self {
        let filled_at = Instant::now();
        let bucket = Bucket { capacity, per_second, tokens: capacity, filled_at, turned_away: 0 };
        self.shared.buckets.lock().unwrap().push((action, bucket));
        self
    }

    /// Lists come in pages of this many rows, however many were asked for: EC2 may give fewer.
    pub fn in_pages_of(self, rows: usize) -> Self {
        let mut world = self.shared.world.lock().unwrap();
        *world = std::mem::take(&mut *world).paged_by(rows);
        drop(world);
        self
    }

    /// Instances are shown with all that EC2 says about them, not only with what is read of it.
    pub fn in_full(self) -> Self {
        self.shared.in_full.store(true, Ordering::SeqCst);
        self
    }

    /// EC2 says at least so many bytes about an instance in full: one with as many addresses.
    pub fn weighing(self, bytes: usize) -> Self {
        self.shared.weight.store(bytes, Ordering::SeqCst);
        self
    }

    /// What comes from now on is a function's start, until [`Self::events_begin`]: it is kept apart, and meets no other
    /// faults than those planned for it.
    pub fn start_begins(&self) {
        self.shared.is_start.store(true, Ordering::SeqCst);
    }

    pub fn events_begin(&self) {
        self.shared.is_start.store(false, Ordering::SeqCst);
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The file of root certificates, where this is TLS.
    pub fn roots(&self) -> &str {
        self.roots.as_deref().and_then(Path::to_str).expect("a wire with TLS")
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().unwrap()
    }

    /// The writes that were carried out.
    pub fn writes(&self) -> Vec<Write> {
        self.world().writes.clone()
    }

    /// The messages that each call hid, with their times in seconds.
    pub fn hidden(&self) -> Vec<Vec<(String, u64)>> {
        self.shared.sqs.lock().unwrap().hidden.clone()
    }

    /// What was sent to the dead-letter queue, by call.
    pub fn dead_letters(&self) -> Vec<Vec<Letter>> {
        self.shared.sqs.lock().unwrap().letters.clone()
    }

    /// What was sent to the queue that messages come from and is seen at once, by call.
    pub fn sent(&self) -> Vec<Vec<String>> {
        let sqs = self.shared.sqs.lock().unwrap();
        let at_once = |call: &Vec<Sent>| {
            let at_once = call.iter().filter(|message| message.delay == 0);
            at_once.map(|message| message.body.clone()).collect::<Vec<_>>()
        };
        sqs.sent.iter().map(at_once).filter(|bodies| !bodies.is_empty()).collect()
    }

    /// Everything that was sent to the queue that messages come from, with its delay and its group.
    #[allow(dead_code, reason = "not each of the test programs that share it looks at delays")]
    pub fn sent_in_full(&self) -> Vec<Sent> {
        self.shared.sqs.lock().unwrap().sent.concat()
    }

    /// What the bus was told, by call.
    pub fn told(&self) -> Vec<Vec<Told>> {
        self.shared.told.lock().unwrap().clone()
    }

    /// Every request that arrived, refused ones among them.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The requests of one action.
    pub fn requests_of(&self, action: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.action == action).collect()
    }

    /// Every request that arrived while a function started.
    pub fn requests_at_start(&self) -> Vec<Request> {
        self.shared.requests_at_start.lock().unwrap().clone()
    }

    /// Connections that were opened.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Requests that found their action's bucket empty.
    pub fn turned_away(&self, action: &str) -> usize {
        let buckets = self.shared.buckets.lock().unwrap();
        buckets.iter().find(|(of, _)| *of == action).map_or(0, |(_, bucket)| bucket.turned_away)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.server.abort();
        if let Some(roots) = &self.roots {
            // Whoever cleans up first.
            let _ = std::fs::remove_file(roots);
        }
    }
}

/// Serves connections until it is aborted; they end with it.
async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let number = shared.connections.fetch_add(1, Ordering::SeqCst);
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            match tls {
                None => speak(stream, number, &shared).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        speak(stream, number, &shared).await;
                    }
                }
            }
        });
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin, number: usize, shared: &Shared) {
    let service = service_fn(|request| answer(shared, number, request));
    // An error here is a connection that broke, on purpose or by its other end.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// A connection that breaks: hyper closes it when the service fails.
#[derive(Debug)]
struct Break;

impl std::fmt::Display for Break {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken on purpose")
    }
}

impl std::error::Error for Break {}

/// Whose API a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    Ec2,
    Iam,
    Sqs,
    Events,
}

impl Api {
    /// SQS and EventBridge are asked by a header, the others by a parameter.
    fn of(action: &str, target: &str) -> Self {
        match action {
            _ if target.starts_with("AWSEvents.") => Self::Events,
            _ if !target.is_empty() => Self::Sqs,
            "GetInstanceProfile" => Self::Iam,
            _ => Self::Ec2,
        }
    }

    /// The name that requests are signed for.
    fn name(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::Iam => "iam",
            Self::Sqs => "sqs",
            Self::Events => "events",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Ec2 | Self::Iam => "application/x-www-form-urlencoded",
            Self::Sqs => "application/x-amz-json-1.0",
            Self::Events => "application/x-amz-json-1.1",
        }
    }

    fn malformed(self) -> AwsError {
        match self {
            Self::Ec2 | Self::Iam => {
                let message = "The query string contains a syntax error";
                error(400, "MalformedQueryString", message)
            }
            Self::Sqs | Self::Events => {
                error(400, "SerializationException", "This is not JSON for this service")
            }
        }
    }

    fn unsigned(self) -> AwsError {
        let message = "Request is missing Authentication Token";
        match self {
            Self::Ec2 => {
                let message = "AWS was not able to validate the provided access credentials";
                error(401, "AuthFailure", message)
            }
            Self::Iam => error(403, "MissingAuthenticationToken", message),
            Self::Sqs | Self::Events => error(403, "MissingAuthenticationTokenException", message),
        }
    }

    fn respond(self, done: Result<String, AwsError>) -> hyper::Response<Full<Bytes>> {
        match (self, done) {
            (Self::Ec2 | Self::Iam, Ok(body)) => respond(200, body),
            (Self::Ec2, Err(error)) => refusal(false, &error),
            (Self::Iam, Err(error)) => refusal(true, &error),
            (Self::Sqs, Ok(body)) => sqs::respond(body),
            (Self::Sqs, Err(error)) => sqs::refusal(&error),
            (Self::Events, Ok(body)) => bus::respond(body),
            (Self::Events, Err(error)) => bus::refusal(&error),
        }
    }
}

/// The parameters of a Query API, and the action, which the others have in a header.
fn read(target: &str, body: &Bytes) -> (BTreeMap<String, String>, String) {
    let of_a_header = target.strip_prefix("AmazonSQS.").or(target.strip_prefix("AWSEvents."));
    if let Some(action) = of_a_header {
        return (BTreeMap::new(), action.to_owned());
    }
    let parameters: BTreeMap<String, String> = form_urlencoded::parse(body).into_owned().collect();
    let action = parameters.get("Action").cloned().unwrap_or_default();
    (parameters, action)
}

async fn answer(
    shared: &Shared,
    connection: usize,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<spoil::Body>, Break> {
    let signature = header(&request, "authorization");
    let target = header(&request, "x-amz-target");
    let content_type = header(&request, "content-type");
    let is_post = request.method() == hyper::Method::POST && request.uri().path() == "/";
    let Ok(body) = request.into_body().collect().await else { return Err(Break) };
    let body = body.to_bytes();
    let (parameters, action) = read(&target, &body);
    let api = Api::of(&action, &target);
    // Credential=KEY/DATE/REGION/SERVICE/aws4_request
    let mut scope = signature.split('/').skip(2).map(str::to_owned);
    let (region, service) = (scope.next().unwrap_or_default(), scope.next().unwrap_or_default());
    sleep(shared.time_under_way(&body, "there")).await;
    let fault = shared.next_fault(&action, &parameters);
    shared.record(Request {
        action: action.clone(),
        parameters: parameters.clone(),
        region,
        connection,
        at: Instant::now(),
    });

    let mut failing: (&[usize], &str) = (&[], "");
    match &fault {
        Some(Fault::BreaksBefore) => return Err(Break),
        Some(Fault::Hangs) => std::future::pending().await,
        Some(Fault::Delays(time)) => sleep(*time).await,
        Some(Fault::Refuses(status, code, message)) => {
            let refused = api.respond(Err(error(*status, code, message)));
            return Ok(spoil::spoil(refused, None).await);
        }
        Some(Fault::Intercepts(status, page)) => {
            let page = respond(*status, (*page).to_owned());
            return Ok(spoil::spoil(page, Some(&Fault::Mislabels)).await);
        }
        Some(Fault::FailsEntries(places, code)) => failing = (*places, *code),
        // What is carried out all the same.
        Some(
            Fault::BreaksAfter
            | Fault::Garbles
            | Fault::CutsShort
            | Fault::Empties
            | Fault::Mislabels
            | Fault::Floods(_)
            | Fault::Drips,
        )
        | None => {}
    }
    let done = if !is_post || content_type != api.content_type() {
        Err(api.malformed())
    } else if service != api.name() {
        Err(api.unsigned())
    } else if !shared.takes(&action) {
        Err(error(503, "RequestLimitExceeded", "Request limit exceeded."))
    } else {
        match (api, serde_json::from_slice::<Value>(&body)) {
            (Api::Ec2 | Api::Iam, _) => shared.carry_out(&action, &parameters),
            (Api::Sqs, Ok(asked)) => shared.sqs.lock().unwrap().carry_out(&action, &asked, failing),
            (Api::Events, Ok(asked)) => {
                bus::carry_out(&mut shared.told.lock().unwrap(), &action, &asked, failing)
            }
            (Api::Sqs | Api::Events, Err(_)) => Err(api.malformed()),
        }
    };
    sleep(shared.time_under_way(&body, "back")).await;
    let answer = match fault {
        Some(Fault::BreaksAfter) => return Err(Break),
        Some(Fault::Garbles) => respond(200, "<html>welcome".to_owned()),
        _ => api.respond(done),
    };
    Ok(spoil::spoil(answer, fault.as_ref()).await)
}

impl Shared {
    fn record(&self, request: Request) {
        let is_start = self.is_start.load(Ordering::SeqCst);
        let requests = if is_start { &self.requests_at_start } else { &self.requests };
        requests.lock().unwrap().push(request);
    }

    fn next_fault(&self, action: &str, parameters: &BTreeMap<String, String>) -> Option<Fault> {
        let is_start = self.is_start.load(Ordering::SeqCst);
        let mut faults = self.faults.lock().unwrap();
        let index = faults.iter().position(|planned| {
            let is_about = |value| parameters.values().any(|given| given == value);
            planned.action == action
                && planned.at_start == is_start
                && planned.about.is_none_or(is_about)
        })?;
        let fault = faults[index].fault.clone();
        if faults[index].lasts == Lasts::Once {
            faults.remove(index);
        }
        Some(fault)
    }

    /// How long a request, or its answer, is under way: as good as random.
    fn time_under_way(&self, request: &Bytes, way: &str) -> Duration {
        let longest = *self.jitter.lock().unwrap();
        let mut hasher = DefaultHasher::new();
        (self.requests.lock().unwrap().len(), request, way).hash(&mut hasher);
        longest * u32::from(hasher.finish().to_le_bytes()[0]) / 255
    }

    /// Whether the action's bucket, where it has one, has a token.
    fn takes(&self, action: &str) -> bool {
        let mut buckets = self.buckets.lock().unwrap();
        let Some((_, bucket)) = buckets.iter_mut().find(|(of, _)| *of == action) else {
            return true;
        };
        let now = Instant::now();
        let brought = (now - bucket.filled_at).as_secs_f64() * bucket.per_second;
        bucket.tokens = (bucket.tokens + brought).min(bucket.capacity);
        bucket.filled_at = now;
        let takes = bucket.tokens >= 1.0;
        if takes {
            bucket.tokens -= 1.0;
        } else {
            bucket.turned_away += 1;
        }
        takes
    }

    fn carry_out(
        &self,
        action: &str,
        given: &BTreeMap<String, String>,
    ) -> Result<String, AwsError> {
        let parameters = Parameters(given);
        let version = if action == "GetInstanceProfile" { "2010-05-08" } else { "2016-11-15" };
        if parameters.required("Version")? != version {
            return Err(error(400, "InvalidAction", "The action is not valid for this version"));
        }
        let mut world = self.world.lock().unwrap();
        match action {
            "DescribeInstances" => {
                parameters.allow_only(&["MaxResults", "NextToken", "Filter."])?;
                let ids = parameters.listed(&world)?;
                let in_full = self.in_full.load(Ordering::SeqCst);
                let (rows, token) = self.page(&parameters, &mut world, |world| {
                    let found = world.describe_instances(&ids)?;
                    let weight = self.weight.load(Ordering::SeqCst);
                    let whole = |instance| full::heavy(&reservation(instance, in_full), weight);
                    Ok(found.iter().map(whole).collect())
                })?;
                Ok(ec2_answer(action, &format!("<reservationSet>{rows}</reservationSet>{token}")))
            }
            "DescribeIamInstanceProfileAssociations" => {
                parameters.allow_only(&["MaxResults", "NextToken", "Filter."])?;
                let ids = if parameters.0.contains_key("Filter.1.Name") {
                    parameters.ids_of("instance-id")?
                } else {
                    world.instances.keys().cloned().collect()
                };
                let (rows, token) = self.page(&parameters, &mut world, |world| {
                    let rows = world.describe_associations(&ids)?;
                    Ok(rows
                        .iter()
                        .map(|row| format!("<item>{}</item>", association(row)))
                        .collect())
                })?;
                let set = "iamInstanceProfileAssociationSet";
                Ok(ec2_answer(action, &format!("<{set}>{rows}</{set}>{token}")))
            }
            "DescribeTags" => {
                parameters.allow_only(&["MaxResults", "NextToken", "Filter."])?;
                let ids = parameters.ids_of("resource-id")?;
                let (rows, token) = self.page(&parameters, &mut world, |world| {
                    let of_all = world.describe_tags(&ids)?;
                    let of_one = |(id, tags): (&String, &BTreeMap<String, String>)| {
                        tags.iter().map(|(key, value)| tag(id, key, value)).collect::<Vec<_>>()
                    };
                    Ok(of_all.iter().flat_map(of_one).collect())
                })?;
                Ok(ec2_answer(action, &format!("<tagSet>{rows}</tagSet>{token}")))
            }
            "AssociateIamInstanceProfile" => {
                parameters.allow_only(&["InstanceId", "IamInstanceProfile.Arn"])?;
                let id = parameters.required("InstanceId")?;
                check_instance_id(id)?;
                let row = world.associate(id, parameters.required("IamInstanceProfile.Arn")?)?;
                Ok(association_answer(action, &row))
            }
            "ReplaceIamInstanceProfileAssociation" => {
                parameters.allow_only(&["AssociationId", "IamInstanceProfile.Arn"])?;
                let row = parameters.required("AssociationId")?;
                let row = world.replace(row, parameters.required("IamInstanceProfile.Arn")?)?;
                Ok(association_answer(action, &row))
            }
            "DisassociateIamInstanceProfile" => {
                parameters.allow_only(&["AssociationId"])?;
                let row = world.disassociate(parameters.required("AssociationId")?)?;
                Ok(association_answer(action, &row))
            }
            "GetInstanceProfile" => {
                parameters.allow_only(&["InstanceProfileName"])?;
                Ok(profile(
                    &world.get_instance_profile(parameters.required("InstanceProfileName")?)?,
                ))
            }
            _ => {
                let message = format!("The action {action} is not valid for this web service.");
                Err(error(400, "InvalidAction", &message))
            }
        }
    }

    /// One page of a list, and the token of the next as XML: the world is asked for the first, the rest is kept.
    fn page(
        &self,
        parameters: &Parameters<'_>,
        world: &mut World,
        list: impl FnOnce(&mut World) -> Result<Vec<String>, AwsError>,
    ) -> Result<(String, String), AwsError> {
        let most = parameters.max_results()?;
        let mut pages = self.pages.lock().unwrap();
        let (all, from) = match parameters.0.get("NextToken") {
            None => (Arc::new(list(world)?), None),
            Some(token) => {
                let invalid = || error(400, "InvalidNextToken", "The specified token is invalid.");
                let (all, from) = pages.remove(token).ok_or_else(invalid)?;
                (all, Some(from))
            }
        };
        let (rows, next) =
            world.page(all.iter().map(String::as_str).collect(), from.as_deref(), most);
        let rows = rows.concat();
        let Some(next) = next else { return Ok((rows, String::new())) };
        // With characters that must survive form encoding.
        let token = format!("page+{}/==", self.tokens.fetch_add(1, Ordering::Relaxed));
        pages.insert(token.clone(), (all, next));
        Ok((rows, format!("<nextToken>{token}</nextToken>")))
    }
}

/// A request's parameters, read as strictly as AWS reads them.
struct Parameters<'a>(&'a BTreeMap<String, String>);

impl Parameters<'_> {
    fn required(&self, name: &str) -> Result<&str, AwsError> {
        self.0.get(name).filter(|value| !value.is_empty()).map(String::as_str).ok_or_else(|| {
            let message = format!("The request must contain the parameter {name}");
            error(400, "MissingParameter", &message)
        })
    }

    /// These names, or beginnings of names that end with a dot.
    fn allow_only(&self, names: &[&str]) -> Result<(), AwsError> {
        let known = |key: &str| {
            matches!(key, "Action" | "Version")
                || names
                    .iter()
                    .any(|name| key == *name || name.ends_with('.') && key.starts_with(name))
        };
        match self.0.keys().find(|key| !known(key)) {
            None => Ok(()),
            Some(key) => {
                let message = format!("The parameter {key} is not recognized");
                Err(error(400, "UnknownParameter", &message))
            }
        }
    }

    fn max_results(&self) -> Result<usize, AwsError> {
        let Some(text) = self.0.get("MaxResults") else { return Ok(1000) };
        text.parse().ok().filter(|number| (5..=1000).contains(number)).ok_or_else(|| {
            let message = format!(
                "Value ( {text} ) for parameter maxResults is invalid. Expecting a value between 5 and 1000."
            );
            error(400, "InvalidParameterValue", &message)
        })
    }

    /// The instances that a list is about: those of the filter `instance-id`, those with a tag, or all.
    fn listed(&self, world: &World) -> Result<Vec<String>, AwsError> {
        let Some(name) = self.0.get("Filter.1.Name") else {
            return Ok(world.instances.keys().cloned().collect());
        };
        let Some(key) = name.strip_prefix("tag:") else { return self.ids_of("instance-id") };
        let values: Vec<_> =
            (1..).map_while(|number| self.0.get(&format!("Filter.1.Value.{number}"))).collect();
        let passes = |instance: &&Instance| {
            instance.tags.get(key).is_some_and(|value| values.contains(&value))
        };
        Ok(world.instances.values().filter(passes).map(|instance| instance.id.clone()).collect())
    }

    /// The values of the one filter that the function has use for.
    fn ids_of(&self, filter: &str) -> Result<Vec<String>, AwsError> {
        let name = self.required("Filter.1.Name")?;
        if name != filter || self.0.contains_key("Filter.2.Name") {
            let message = format!("The filter '{name}' is invalid");
            return Err(error(400, "InvalidParameterValue", &message));
        }
        let mut ids = Vec::new();
        while let Some(id) = self.0.get(&format!("Filter.1.Value.{}", ids.len() + 1)) {
            if id.is_empty() || id.contains(['*', '?']) {
                let message = "Value () for parameter filter is invalid";
                return Err(error(400, "InvalidParameterValue", message));
            }
            ids.push(id.clone());
        }
        match ids.len() {
            0 => Err(error(400, "InvalidParameterValue", "The filter value list may not be empty")),
            1..=200 => Ok(ids),
            _ => {
                let message =
                    "The maximum number of filter values specified on a single call is 200";
                Err(error(400, "FilterLimitExceeded", message))
            }
        }
    }
}

fn check_instance_id(id: &str) -> Result<(), AwsError> {
    let hex = id.strip_prefix("i-").unwrap_or_default();
    if !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(());
    }
    Err(error(400, "InvalidInstanceID.Malformed", &format!("Invalid id: \"{id}\"")))
}

/// When an instance was started of which nobody says so: 2026-11-02T09:14:00Z.
const LAUNCHED: i64 = 1_793_610_840;

fn reservation(instance: &Instance, in_full: bool) -> String {
    let Instance { id, state, tags, managed_by, shown_profile, started, .. } = instance;
    let code = match state.as_str() {
        "pending" => 0,
        "running" => 16,
        "shutting-down" => 32,
        "terminated" => 48,
        "stopping" => 64,
        _ => 80,
    };
    let mut more = if in_full { full::rest(id) } else { String::new() };
    if let Some((arn, id)) = shown_profile {
        write!(more, "<iamInstanceProfile><arn>{arn}</arn><id>{id}</id></iamInstanceProfile>")
            .unwrap();
    }
    // EC2 leaves the set out where there is no tag.
    let others = full::TAGS.iter().filter(|_| in_full);
    if !tags.is_empty() || in_full {
        more.push_str("<tagSet>");
        let tags = tags.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        for (key, value) in tags.chain(others.copied()) {
            let (key, value) = (escaped(key), escaped(value));
            write!(more, "<item><key>{key}</key><value>{value}</value></item>").unwrap();
        }
        more.push_str("</tagSet>");
    }
    match managed_by {
        None => more.push_str("<operator><managed>false</managed></operator>"),
        Some(service) => write!(
            more,
            "<operator><managed>true</managed><principal>{service}</principal></operator>"
        )
        .unwrap(),
    }
    let started = DateTime::from_secs(started.unwrap_or(LAUNCHED)).fmt(Format::DateTime).unwrap();
    format!(
        "<item><reservationId>r-0{hex}</reservationId><ownerId>{ACCOUNT}</ownerId><groupSet/><instancesSet><item>\
         <instanceId>{id}</instanceId><imageId>ami-00000000000000001</imageId>\
         <instanceState><code>{code}</code><name>{state}</name></instanceState><reason/>\
         <vpcId>vpc-0123456789abcdef0</vpcId><subnetId>subnet-0123456789abcdef0</subnetId>\
         <instanceType>t3.micro</instanceType><launchTime>{started}</launchTime>{more}\
         </item></instancesSet></item>",
        hex = &id[2..],
    )
}

/// A row of `DescribeTags`.
fn tag(id: &str, key: &str, value: &str) -> String {
    let (key, value) = (escaped(key), escaped(value));
    format!(
        "<item><resourceId>{id}</resourceId><resourceType>instance</resourceType><key>{key}</key>\
         <value>{value}</value></item>"
    )
}

fn association(row: &Association) -> String {
    let time = DateTime::from_secs(row.timestamp).fmt(Format::DateTime).unwrap();
    format!("{}<timestamp>{time}</timestamp>", untimed_association(row))
}

fn untimed_association(row: &Association) -> String {
    format!(
        "<associationId>{}</associationId><iamInstanceProfile><arn>{}</arn><id>{}</id></iamInstanceProfile>\
         <instanceId>{}</instanceId><state>{}</state>",
        row.id, row.arn, row.profile_id, row.instance, row.state
    )
}

fn association_answer(action: &str, row: &Association) -> String {
    let row = untimed_association(row);
    ec2_answer(
        action,
        &format!("<iamInstanceProfileAssociation>{row}</iamInstanceProfileAssociation>"),
    )
}

fn ec2_answer(action: &str, content: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
         <requestId>59dbff89-35bd-4eac-99ed-example00001</requestId>{content}</{action}Response>"
    )
}

fn profile(profile: &Profile) -> String {
    let role = profile.role.as_ref().map_or_else(String::new, |role| {
        let policy = role.trust_policy();
        let policy = utf8_percent_encode(&policy, NON_ALPHANUMERIC);
        format!(
            "<member><Path>/</Path><RoleName>{}</RoleName><RoleId>AROA00000000000000001</RoleId><Arn>{}</Arn>\
             <CreateDate>2026-11-02T08:59:00Z</CreateDate>\
             <AssumeRolePolicyDocument>{policy}</AssumeRolePolicyDocument></member>",
            role.name,
            role.arn()
        )
    });
    format!(
        "<GetInstanceProfileResponse xmlns=\"https://iam.amazonaws.com/doc/2010-05-08/\"><GetInstanceProfileResult>\
         <InstanceProfile><Path>{}</Path><InstanceProfileName>{}</InstanceProfileName>\
         <InstanceProfileId>{}</InstanceProfileId><Arn>{}</Arn><CreateDate>2026-11-02T09:00:00Z</CreateDate>\
         <Roles>{role}</Roles></InstanceProfile></GetInstanceProfileResult><ResponseMetadata>\
         <RequestId>37289fda-29ba-11de-8c4d-example00001</RequestId></ResponseMetadata></GetInstanceProfileResponse>",
        profile.path,
        profile.name,
        profile.id,
        profile.arn()
    )
}

fn refusal(is_iam: bool, error: &AwsError) -> hyper::Response<Full<Bytes>> {
    let (code, message) = (&error.code, escaped(&error.message));
    let error_element = format!("<Code>{code}</Code><Message>{message}</Message>");
    let request_id = "7a62c49f-347e-4fc4-9331-example00001";
    let body = if is_iam {
        format!(
            "<ErrorResponse xmlns=\"https://iam.amazonaws.com/doc/2010-05-08/\"><Error><Type>Sender</Type>\
             {error_element}</Error><RequestId>{request_id}</RequestId></ErrorResponse>"
        )
    } else {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error>{error_element}</Error></Errors>\
             <RequestID>{request_id}</RequestID></Response>"
        )
    };
    respond(error.status, body)
}

fn respond(status: u16, body: String) -> hyper::Response<Full<Bytes>> {
    hyper::Response::builder()
        .status(status)
        .header("content-type", "text/xml;charset=UTF-8")
        .body(Full::from(body))
        .unwrap()
}

/// The beginning of an answer in JSON.
fn header_for(status: u16, content_type: &str) -> hyper::http::response::Builder {
    hyper::Response::builder()
        .status(status)
        .header("content-type", content_type)
        .header("x-amzn-requestid", "7a62c49f-347e-4fc4-9331-example00001")
}

fn header(request: &hyper::Request<Incoming>, name: &str) -> String {
    let value = request.headers().get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn error(status: u16, code: &str, message: &str) -> AwsError {
    AwsError { status, code: code.to_owned(), message: message.to_owned() }
}
