//! EC2, IAM and SQS over TLS, each on a loopback port of its own, as far as a sweep needs them: a fleet that is listed page
//! by page and made up as it is asked for, so that its size costs this side nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
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
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use crate::fleet::{self, ACCOUNT, PROFILE, PROFILE_ID};

/// The services, by the names that requests are signed for. Each has its own port, as each has its own host at AWS.
const SERVICES: [&str; 3] = ["ec2", "iam", "sqs"];
/// The most rows that EC2 gives a page.
const ROWS_PER_PAGE: usize = 1000;
/// EC2's tokens are long and say nothing; this one has characters that must survive form encoding.
const TOKEN: &str = "eyJ2IjoiMiIsImMiOiJhYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ejAxMjM0NTY3ODk+/AQICAHj";

/// The APIs; they stop when this is dropped.
pub struct Api {
    endpoints: Vec<(&'static str, String)>,
    shared: Arc<Shared>,
    _servers: JoinSet<()>,
}

/// What reached the APIs since somebody last asked.
#[derive(Debug, Default, Clone)]
pub struct Traffic {
    /// The actions, and how often each was called.
    pub calls: BTreeMap<String, usize>,
    /// Bytes of EC2's answers.
    pub bytes: usize,
    /// What was put on queues.
    pub messages: Vec<String>,
}

#[derive(Default)]
struct Shared {
    instances: Mutex<usize>,
    weight: Mutex<usize>,
    latency: Mutex<Duration>,
    traffic: Mutex<Traffic>,
}

impl Api {
    /// Serves an empty Region on free ports of both loopback addresses, where there are two.
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

    /// Begins a Region of so many instances of this weight, of which each page takes EC2 this long.
    pub fn begin(&self, instances: usize, weight: usize, latency: Duration) {
        *lock(&self.shared.instances) = instances;
        *lock(&self.shared.weight) = weight;
        *lock(&self.shared.latency) = latency;
        self.take_traffic();
    }

    /// What came since this was last called.
    pub fn take_traffic(&self) -> Traffic {
        std::mem::take(&mut lock(&self.shared.traffic))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
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
    let given: Parameters = form_urlencoded::parse(&body).into_owned().collect();
    let action = match target.rsplit_once('.') {
        Some((_, action)) => action.to_owned(),
        None => given.get("Action").cloned().unwrap_or_default(),
    };
    // Credential=KEY/DATE/REGION/SERVICE/aws4_request
    let is_signed = signature.split('/').nth(3) == Some(service);
    let done = match service {
        _ if !is_signed => None,
        "ec2" => shared.in_ec2(&action, &given),
        "iam" => in_iam(&action, &given),
        _ => shared.in_sqs(&action, &body),
    };
    let is_nobody = given.get("Filter.1.Value.1").is_some_and(|id| id == "i-00000000000000000");
    let is_page = service == "ec2" && !is_nobody;
    let status = if done.is_some() { 200 } else { 400 };
    let content = done.unwrap_or_else(|| refusal(service));
    {
        let mut traffic = lock(&shared.traffic);
        let call = if status == 200 { action } else { format!("{action} (refused)") };
        *traffic.calls.entry(call).or_default() += 1;
        traffic.bytes += if service == "ec2" { content.len() } else { 0 };
    }
    let latency = *lock(&shared.latency);
    if is_page {
        sleep(latency).await;
    }
    Ok(respond(service, status, content))
}

type Parameters = BTreeMap<String, String>;

impl Shared {
    /// Nothing where the call is none of a sweep's.
    fn in_ec2(&self, action: &str, given: &Parameters) -> Option<String> {
        let weight = *lock(&self.weight);
        let (set, row): (_, &dyn Fn(usize) -> String) = match action {
            "DescribeInstances" => {
                ("reservationSet", &move |number| fleet::reservation(number, weight))
            }
            "DescribeIamInstanceProfileAssociations" => {
                ("iamInstanceProfileAssociationSet", &fleet::association)
            }
            _ => return None,
        };
        let instances = *lock(&self.instances);
        if given.contains_key("Filter.1.Name") {
            // By ids: the look at nobody in INIT, and a large fleet's associations.
            let ids = (1..).map_while(|at| given.get(&format!("Filter.1.Value.{at}")));
            let numbers = ids.filter_map(|id| fleet::number_of(id)).filter(|at| *at < instances);
            return Some(list(action, set, &numbers.map(row).collect::<String>(), ""));
        }
        let begin = match given.get("NextToken") {
            None => 0,
            Some(token) => token.strip_prefix(TOKEN)?.parse().ok()?,
        };
        let wanted = given.get("MaxResults").and_then(|text| text.parse().ok());
        let end = instances.min(begin + wanted.unwrap_or(ROWS_PER_PAGE).min(ROWS_PER_PAGE));
        let rows: String = (begin..end).map(row).collect();
        let next = if end < instances {
            format!("<nextToken>{TOKEN}{end}</nextToken>")
        } else {
            String::new()
        };
        Some(list(action, set, &rows, &next))
    }

    /// Whatever is asked of a message succeeds; what is sent is kept.
    fn in_sqs(&self, action: &str, body: &Bytes) -> Option<String> {
        let asked: Value = serde_json::from_slice(body).ok()?;
        let entries = asked["Entries"].as_array()?;
        let done: Vec<Value> = match action {
            "ChangeMessageVisibilityBatch" => {
                entries.iter().map(|entry| json!({ "Id": entry["Id"] })).collect()
            }
            "SendMessageBatch" => {
                let bodies = entries.iter().filter_map(|entry| entry["MessageBody"].as_str());
                lock(&self.traffic).messages.extend(bodies.map(str::to_owned));
                let sent = |entry: &Value| {
                    json!({
                        "Id": entry["Id"],
                        "MessageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
                        // Nobody compares it.
                        "MD5OfMessageBody": "d41d8cd98f00b204e9800998ecf8427e",
                    })
                };
                entries.iter().map(sent).collect()
            }
            _ => return None,
        };
        Some(json!({ "Successful": done, "Failed": [] }).to_string())
    }
}

fn list(action: &str, set: &str, rows: &str, next: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
         <requestId>59dbff89-35bd-4eac-99ed-be587a1b2c3d</requestId><{set}>{rows}</{set}>{next}</{action}Response>"
    )
}

fn in_iam(action: &str, given: &Parameters) -> Option<String> {
    if action != "GetInstanceProfile" || given.get("InstanceProfileName")? != PROFILE {
        return None;
    }
    let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}"#;
    let policy = utf8_percent_encode(policy, NON_ALPHANUMERIC);
    Some(format!(
        "<GetInstanceProfileResponse xmlns=\"https://iam.amazonaws.com/doc/2010-05-08/\"><GetInstanceProfileResult>\
         <InstanceProfile><Path>/</Path><InstanceProfileName>{PROFILE}</InstanceProfileName>\
         <InstanceProfileId>{PROFILE_ID}</InstanceProfileId><Arn>{arn}</Arn><CreateDate>2026-11-02T09:00:00Z</CreateDate>\
         <Roles><member><Path>/</Path><RoleName>{PROFILE}</RoleName><RoleId>AROA00000000000000001</RoleId>\
         <Arn>arn:aws:iam::{ACCOUNT}:role/{PROFILE}</Arn><CreateDate>2026-11-02T08:59:00Z</CreateDate>\
         <AssumeRolePolicyDocument>{policy}</AssumeRolePolicyDocument></member></Roles></InstanceProfile>\
         </GetInstanceProfileResult><ResponseMetadata><RequestId>37289fda-29ba-11de-8c4d-be587a1b2c3d</RequestId>\
         </ResponseMetadata></GetInstanceProfileResponse>",
        arn = fleet::profile_arn(),
    ))
}

/// No call that a sweep of right instances makes.
fn refusal(service: &str) -> String {
    let what = "<Code>InvalidAction</Code><Message>This is no call of a sweep.</Message>";
    match service {
        "sqs" => json!({ "__type": "InvalidAction", "message": "no call of a sweep" }).to_string(),
        "iam" => format!(
            "<ErrorResponse xmlns=\"https://iam.amazonaws.com/doc/2010-05-08/\"><Error><Type>Sender</Type>{what}\
             </Error><RequestId>7a62c49f</RequestId></ErrorResponse>"
        ),
        _ => format!(
            "<Response><Errors><Error>{what}</Error></Errors><RequestID>7a62c49f</RequestID></Response>"
        ),
    }
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
