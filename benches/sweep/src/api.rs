//! EC2, IAM and SQS over TLS, each on a loopback port of its own, as far as a sweep needs them: a fleet that is listed page
//! by page and made up as it is asked for, so that its size costs this side nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bench_common::aws::{Answer, Call, Endpoints, Parameters, Services};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use crate::fleet::{self, ACCOUNT, PROFILE, PROFILE_ID};

/// The most rows that EC2 gives a page.
const ROWS_PER_PAGE: usize = 1000;
/// EC2's tokens are long and say nothing; this one has characters that must survive form encoding.
const TOKEN: &str = "eyJ2IjoiMiIsImMiOiJhYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ejAxMjM0NTY3ODk+/AQICAHj";

/// The APIs; they stop when this is dropped.
pub struct Api {
    endpoints: Endpoints,
    shared: Arc<Shared>,
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
    /// Serves an empty Region.
    pub async fn serve(tls: &TlsAcceptor) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let endpoints = Endpoints::serve(&shared, tls).await?;
        Ok(Self { endpoints, shared })
    }

    /// The variables that tell AWS's SDKs where the services are.
    pub fn variables(&self) -> impl Iterator<Item = (String, String)> {
        self.endpoints.variables()
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

impl Services for Shared {
    fn connected(&self, _service: &'static str) {}

    async fn answer(&self, call: Call) -> Answer {
        let Call { service, signed_for, action, given, body } = call;
        let done = match service {
            _ if signed_for.as_deref() != Some(service) => None,
            "ec2" => self.in_ec2(&action, &given),
            "iam" => in_iam(&action, &given),
            _ => self.in_sqs(&action, &body),
        };
        let is_nobody = given.get("Filter.1.Value.1").is_some_and(|id| id == "i-00000000000000000");
        let is_page = service == "ec2" && !is_nobody;
        let status = if done.is_some() { 200 } else { 400 };
        let content = done.unwrap_or_else(|| refusal(service));
        {
            let mut traffic = lock(&self.traffic);
            let call = if status == 200 { action } else { format!("{action} (refused)") };
            *traffic.calls.entry(call).or_default() += 1;
            traffic.bytes += if service == "ec2" { content.len() } else { 0 };
        }
        let latency = *lock(&self.latency);
        if is_page {
            sleep(latency).await;
        }
        Answer { status, content }
    }
}

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
    fn in_sqs(&self, action: &str, body: &[u8]) -> Option<String> {
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
