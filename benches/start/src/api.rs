//! EC2, IAM and SQS over TLS, each on a loopback port of its own, as far as one event needs them. The world behind them is
//! the tests' own.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use bench_common::RESERVATION;
use bench_common::aws::{Answer, Call, Endpoints, Parameters, Services};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use crate::world::{ACCOUNT, Association, AwsError, Instance, Profile, World};

/// The APIs; they stop when this is dropped.
pub struct Api {
    endpoints: Endpoints,
    shared: Arc<Shared>,
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
    /// Serves an empty world.
    pub async fn serve(tls: &TlsAcceptor) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let endpoints = Endpoints::serve(&shared, tls).await?;
        Ok(Self { endpoints, shared })
    }

    /// The variables that tell AWS's SDKs where the services are.
    pub fn variables(&self) -> impl Iterator<Item = (String, String)> {
        self.endpoints.variables()
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

impl Services for Shared {
    fn connected(&self, service: &'static str) {
        lock(&self.traffic).connections.push(service);
    }

    async fn answer(&self, call: Call) -> Answer {
        let (name, answer) = self.respond(&call);
        lock(&self.traffic).calls.push(name);
        let latency = *lock(&self.latency);
        if !latency.is_zero() {
            // Tokio's own timer would round up to the next millisecond.
            let _ = tokio::task::spawn_blocking(move || thread::sleep(latency)).await;
        }
        answer
    }
}

impl Shared {
    /// What a request was, in words, and its answer.
    fn respond(&self, call: &Call) -> (String, Answer) {
        let Call { service, signed_for, action, given, body } = call;
        let done = match (*service, signed_for.as_deref()) {
            (_, None) => Err(error(403, "MissingAuthenticationToken", "The request is not signed")),
            ("ec2", Some("ec2")) => in_ec2(&mut lock(&self.world), action, given),
            ("iam", Some("iam")) => in_iam(&mut lock(&self.world), action, given),
            ("sqs", Some("sqs")) => in_sqs(action, body),
            _ => Err(error(
                403,
                "SignatureDoesNotMatch",
                "The request is signed for another service",
            )),
        };
        let unsigned = if signed_for.is_none() { " (unsigned)" } else { "" };
        let answer = match done {
            Ok(content) => Answer { status: 200, content },
            Err(error) => refusal(service, &error),
        };
        (format!("{service}:{action}{unsigned}"), answer)
    }
}

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
fn in_sqs(action: &str, body: &[u8]) -> Result<String, AwsError> {
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

fn refusal(service: &str, error: &AwsError) -> Answer {
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
    Answer { status: *status, content }
}

fn unknown(action: &str) -> AwsError {
    error(400, "InvalidAction", &format!("The action {action} is not valid for this web service."))
}

fn error(status: u16, code: &str, message: &str) -> AwsError {
    AwsError { status, code: code.to_owned(), message: message.to_owned() }
}
