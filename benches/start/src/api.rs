//! EC2, IAM and SQS over TLS, each on a loopback port of its own, as far as one event needs them. The world behind them is
//! the tests' own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::world::{ACCOUNT, Association, AwsError, Instance, Profile, World};

/// What `DescribeInstances` says about one instance: all the elements that EC2 sends for a plain one.
const RESERVATION: &str = include_str!("instance.xml");

/// The services, by the names that requests are signed for. Each has its own port, as each has its own host at AWS: a
/// connection to one is of no use for another.
const SERVICES: [&str; 3] = ["ec2", "iam", "sqs"];

/// The APIs; they stop when this is dropped.
pub struct Api {
    endpoints: Vec<(&'static str, String)>,
    shared: Arc<Shared>,
    _servers: JoinSet<()>,
}

/// What reached the APIs since somebody last asked.
#[derive(Debug, Default, Clone)]
pub struct Traffic {
    /// TLS connections that were opened, by service.
    pub connections: Vec<&'static str>,
    /// The actions, in the order of their arrival.
    pub calls: Vec<String>,
}

#[derive(Default)]
struct Shared {
    world: Mutex<World>,
    latency: Mutex<Duration>,
    traffic: Mutex<Traffic>,
}

impl Api {
    /// Serves an empty world on free ports of both loopback addresses, where there are two.
    pub async fn serve(tls: TlsAcceptor) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut servers = JoinSet::new();
        let mut endpoints = Vec::new();
        for service in SERVICES {
            let listener =
                TcpListener::bind(("127.0.0.1", 0)).await.context("listening on loopback")?;
            let port = listener.local_addr()?.port();
            endpoints.push((service, format!("https://localhost:{port}")));
            servers.spawn(accept(listener, service, tls.clone(), Arc::clone(&shared)));
            // "localhost" may be tried there first; a machine without IPv6 has no such address.
            if let Ok(listener) = TcpListener::bind(("::1", port)).await {
                servers.spawn(accept(listener, service, tls.clone(), Arc::clone(&shared)));
            }
        }
        Ok(Self { endpoints, shared, _servers: servers })
    }

    /// The variables that tell AWS's SDKs where the services are.
    pub fn variables(&self) -> impl Iterator<Item = (String, String)> {
        let variable = |(service, endpoint): &(&str, String)| {
            (format!("AWS_ENDPOINT_URL_{}", service.to_uppercase()), endpoint.clone())
        };
        self.endpoints.iter().map(variable)
    }

    /// Begins a new world, whose calls each take this long beyond the work itself.
    pub fn begin(&self, world: World, latency: Duration) {
        *lock(&self.shared.world) = world;
        *lock(&self.shared.latency) = latency;
        self.take_traffic();
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.shared.world)
    }

    /// What came since this was last called.
    pub fn take_traffic(&self) -> Traffic {
        std::mem::take(&mut lock(&self.shared.traffic))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(
    listener: TcpListener,
    service: &'static str,
    tls: TlsAcceptor,
    shared: Arc<Shared>,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        lock(&shared.traffic).connections.push(service);
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            // An error here is the end of the function, or of its connection.
            let _ = serve(stream, service, tls, &shared).await;
        });
    }
}

async fn serve(
    stream: TcpStream,
    service: &'static str,
    tls: TlsAcceptor,
    shared: &Arc<Shared>,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = tls.accept(stream).await?;
    let service = service_fn(|request| answer(Arc::clone(shared), service, request));
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

async fn answer(
    shared: Arc<Shared>,
    service: &'static str,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (signature, target) = (header("authorization"), header("x-amz-target"));
    let body = request.into_body().collect().await?.to_bytes();
    // Credential=KEY/DATE/REGION/SERVICE/aws4_request
    let scope = signature.split('/').nth(3);
    let (name, response) = shared.respond(service, scope, &target, &body);
    lock(&shared.traffic).calls.push(name);
    let latency = *lock(&shared.latency);
    if !latency.is_zero() {
        // Tokio's own timer would round up to the next millisecond.
        let _ = tokio::task::spawn_blocking(move || thread::sleep(latency)).await;
    }
    Ok(response)
}

impl Shared {
    /// What a request was, in words, and its answer. `scope` is the service that it was signed for.
    fn respond(
        &self,
        service: &str,
        scope: Option<&str>,
        target: &str,
        body: &Bytes,
    ) -> (String, Response<Full<Bytes>>) {
        let given: Parameters = form_urlencoded::parse(body).into_owned().collect();
        let action = match target.rsplit_once('.') {
            Some((_, action)) => action,
            None => given.get("Action").map_or("nothing", String::as_str),
        };
        let done = match (service, scope) {
            (_, None) => Err(error(403, "MissingAuthenticationToken", "The request is not signed")),
            ("ec2", Some("ec2")) => in_ec2(&mut lock(&self.world), action, &given),
            ("iam", Some("iam")) => in_iam(&mut lock(&self.world), action, &given),
            ("sqs", Some("sqs")) => in_sqs(action, body),
            _ => Err(error(
                403,
                "SignatureDoesNotMatch",
                "The request is signed for another service",
            )),
        };
        let unsigned = if scope.is_none() { " (unsigned)" } else { "" };
        let response = match done {
            Ok(content) => respond(service, 200, content),
            Err(error) => refusal(service, &error),
        };
        (format!("{service}:{action}{unsigned}"), response)
    }
}

type Parameters = BTreeMap<String, String>;

fn in_ec2(world: &mut World, action: &str, given: &Parameters) -> Result<String, AwsError> {
    let content = match action {
        "DescribeInstances" => {
            let (ids, must_exist) = match listed(given, "InstanceId") {
                ids if ids.is_empty() => (filtered(given)?, false),
                ids => (ids, true),
            };
            let found = world.describe_instances(&ids)?;
            if must_exist && found.len() < ids.len() {
                let message = format!("The instance IDs '{}' do not exist", ids.join(", "));
                return Err(error(400, "InvalidInstanceID.NotFound", &message));
            }
            let rows: String = found.iter().map(reservation).collect();
            format!("<reservationSet>{rows}</reservationSet>")
        }
        "DescribeIamInstanceProfileAssociations" => {
            let found = world.describe_associations(&filtered(given)?)?;
            let rows: String = found
                .iter()
                .flat_map(|row| ["<item>".to_owned(), association(row), "</item>".to_owned()])
                .collect();
            let set = "iamInstanceProfileAssociationSet";
            format!("<{set}>{rows}</{set}>")
        }
        "AssociateIamInstanceProfile" => {
            let arn = match given.get("IamInstanceProfile.Arn") {
                Some(arn) => arn.clone(),
                None => {
                    world.get_instance_profile(required(given, "IamInstanceProfile.Name")?)?.arn()
                }
            };
            let row = world.associate(required(given, "InstanceId")?, &arn)?;
            let row = association(&row);
            format!("<iamInstanceProfileAssociation>{row}</iamInstanceProfileAssociation>")
        }
        _ => return Err(unknown(action)),
    };
    Ok(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
         <requestId>59dbff89-35bd-4eac-99ed-be587a1b2c3d</requestId>{content}</{action}Response>"
    ))
}

fn in_iam(world: &mut World, action: &str, given: &Parameters) -> Result<String, AwsError> {
    if action != "GetInstanceProfile" {
        return Err(unknown(action));
    }
    let found = world.get_instance_profile(required(given, "InstanceProfileName")?)?;
    Ok(profile(&found))
}

/// Whatever is asked of a message succeeds.
fn in_sqs(action: &str, body: &Bytes) -> Result<String, AwsError> {
    if action != "ChangeMessageVisibilityBatch" {
        return Err(unknown(action));
    }
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    let entries = asked["Entries"].as_array().cloned().unwrap_or_default();
    let done: Vec<Value> = entries.iter().map(|entry| json!({ "Id": entry["Id"] })).collect();
    Ok(json!({ "Successful": done, "Failed": [] }).to_string())
}

fn required<'a>(given: &'a Parameters, name: &str) -> Result<&'a str, AwsError> {
    given.get(name).filter(|value| !value.is_empty()).map(String::as_str).ok_or_else(|| {
        let message = format!("The request must contain the parameter {name}");
        error(400, "MissingParameter", &message)
    })
}

/// The values `NAME.1`, `NAME.2` and so on.
fn listed(given: &Parameters, name: &str) -> Vec<String> {
    (1..).map_while(|number| given.get(&format!("{name}.{number}")).cloned()).collect()
}

/// The ids of the one filter that this job has use for.
fn filtered(given: &Parameters) -> Result<Vec<String>, AwsError> {
    if required(given, "Filter.1.Name")? != "instance-id" || given.contains_key("Filter.2.Name") {
        return Err(error(400, "InvalidParameterValue", "The filter is invalid"));
    }
    Ok(listed(given, "Filter.1.Value"))
}

fn reservation(instance: &Instance) -> String {
    let mut tags = String::new();
    for (key, value) in &instance.tags {
        // Writing to a string cannot fail.
        let _ = write!(tags, "<item><key>{key}</key><value>{value}</value></item>");
    }
    RESERVATION
        .replace('\n', "")
        .replace("{hex}", &instance.id[2..])
        .replace("{id}", &instance.id)
        .replace("{account}", ACCOUNT)
        .replace("{code}", if instance.state == "running" { "16" } else { "80" })
        .replace("{state}", &instance.state)
        .replace("{tags}", &tags)
}

fn association(row: &Association) -> String {
    let Association { id, instance, arn, profile_id, state, .. } = row;
    format!(
        "<associationId>{id}</associationId><iamInstanceProfile><arn>{arn}</arn><id>{profile_id}</id>\
         </iamInstanceProfile><instanceId>{instance}</instanceId><state>{state}</state>\
         <timestamp>2026-11-02T09:14:22.000Z</timestamp>"
    )
}

fn profile(found: &Profile) -> String {
    let role = found.role.as_ref().map_or_else(String::new, |role| {
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
         <RequestId>37289fda-29ba-11de-8c4d-be587a1b2c3d</RequestId></ResponseMetadata></GetInstanceProfileResponse>",
        found.path,
        found.name,
        found.id,
        found.arn()
    )
}

fn refusal(service: &str, error: &AwsError) -> Response<Full<Bytes>> {
    let AwsError { status, code, message } = error;
    let what = format!("<Code>{code}</Code><Message>{message}</Message>");
    let id = "7a62c49f-347e-4fc4-9331-6e8e7a1b2c3d";
    let content = match service {
        "sqs" => json!({ "__type": code, "message": message }).to_string(),
        "iam" => format!(
            "<ErrorResponse xmlns=\"https://iam.amazonaws.com/doc/2010-05-08/\"><Error><Type>Sender</Type>{what}\
             </Error><RequestId>{id}</RequestId></ErrorResponse>"
        ),
        _ => format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error>{what}</Error></Errors>\
             <RequestID>{id}</RequestID></Response>"
        ),
    };
    respond(service, *status, content)
}

/// SQS speaks JSON, the others XML.
fn respond(service: &str, status: u16, content: String) -> Response<Full<Bytes>> {
    let kind =
        if service == "sqs" { "application/x-amz-json-1.0" } else { "text/xml;charset=UTF-8" };
    Response::builder()
        .status(status)
        .header("content-type", kind)
        .body(Full::from(content))
        .expect("a response of these parts is legal")
}

fn unknown(action: &str) -> AwsError {
    error(400, "InvalidAction", &format!("The action {action} is not valid for this web service."))
}

fn error(status: u16, code: &str, message: &str) -> AwsError {
    AwsError { status, code: code.to_owned(), message: message.to_owned() }
}
