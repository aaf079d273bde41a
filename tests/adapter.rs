//! The adapter to AWS's SDK: requests that go out, answers that come back, and what each failure means.
//!
//! First by the SDK's own mocks, call by call and code by code; then by bodies as EC2 and IAM write them. The clock is
//! virtual, so the shipped patience costs no time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use auto_instance_profile::aws::Aws;
use auto_instance_profile::aws::cloud::AwsCloud;
use auto_instance_profile::bus::{Bus, Kind, Notice};
use auto_instance_profile::cloud::{Cloud, CloudError, Clouds, ErrorKind, Fleet, Operation, Page};
use auto_instance_profile::failure::chain;
use auto_instance_profile::model::{
    self, Association, AssociationId, AssociationState, Instance, InstanceId, InstanceState,
    Keeper, ProfileName, QueueArn,
};
use auto_instance_profile::queue::{DeadLetter, DeadLetters, Hidden, Outgoing, QueueError, Queues};
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ec2::config::{Credentials, HttpClient, SharedCredentialsProvider};
use aws_sdk_ec2::operation::associate_iam_instance_profile::AssociateIamInstanceProfileOutput;
use aws_sdk_ec2::operation::describe_iam_instance_profile_associations::DescribeIamInstanceProfileAssociationsOutput;
use aws_sdk_ec2::operation::describe_instances::DescribeInstancesOutput;
use aws_sdk_ec2::operation::disassociate_iam_instance_profile::DisassociateIamInstanceProfileOutput;
use aws_sdk_ec2::operation::replace_iam_instance_profile_association::ReplaceIamInstanceProfileAssociationOutput;
use aws_sdk_ec2::types::{
    Filter, IamInstanceProfile, IamInstanceProfileAssociation, IamInstanceProfileAssociationState,
    IamInstanceProfileSpecification, InstanceStateName, OperatorResponse, Reservation, Tag,
};
use aws_sdk_iam::operation::get_instance_profile::GetInstanceProfileOutput;
use aws_smithy_http_client::test_util::{NeverClient, ReplayEvent, StaticReplayClient};
use aws_smithy_mocks::{MockResponseInterceptor, Rule, create_mock_http_client, mock};
use aws_smithy_types::DateTime;
use aws_smithy_types::body::SdkBody;
use serde_json::{Value, json};

const ID: &str = "i-0123456789abcdef0";
const OTHER_ID: &str = "i-0fedcba9876543210";
const ROW: &str = "iip-assoc-0a1b2c3d4e5f60718";
const ARN: &str = "arn:aws:iam::123456789012:instance-profile/app/web";
const PROFILE_ID: &str = "AIPACKCEVSQ6C2EXAMPLE";
const PASS_ROLE_DENIED: &str = "You are not authorized to perform this operation. User: \
     arn:aws:sts::123456789012:assumed-role/function/function is not authorized to perform: iam:PassRole on resource: \
     arn:aws:iam::123456789012:role/web because no identity-based policy allows the iam:PassRole action. Encoded \
     authorization failure message: AbCdEf";

// ---- By the SDK's mocks --------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn instances_are_read_by_filter_and_become_facts() {
    let rule = mock!(aws_sdk_ec2::Client::describe_instances)
        .match_requests(|request| {
            request.filters() == [the_filter_for(&[ID])]
                && request.instance_ids().is_empty()
                && request.max_results() == Some(1000)
        })
        .then_output(|| {
            let managed =
                OperatorResponse::builder().managed(true).principal("eks.amazonaws.com").build();
            let state = aws_sdk_ec2::types::InstanceState::builder()
                .name(InstanceStateName::Stopped)
                .build();
            let instance = aws_sdk_ec2::types::Instance::builder()
                .instance_id(ID)
                .state(state)
                .tags(Tag::builder().key("InstanceProfile").value("web").build())
                .tags(Tag::builder().key("without-a-value").build())
                .operator(managed)
                .build();
            let reservation =
                Reservation::builder().owner_id("123456789012").instances(instance).build();
            DescribeInstancesOutput::builder().reservations(reservation).build()
        });
    let found = mocked(&rule).instances(&ids(&[ID])).await.unwrap();
    let [instance] = &found[..] else { panic!("{found:?}") };
    assert_eq!(instance.id.as_str(), ID);
    assert_eq!(instance.account.as_ref().unwrap().as_str(), "123456789012");
    assert_eq!(instance.state, InstanceState::Stopped);
    assert_eq!(tags_of(instance), [("InstanceProfile", "web"), ("without-a-value", "")]);
    assert_eq!(instance.keeper, Keeper::Service(Some("eks.amazonaws.com".to_owned())));
    assert_eq!(rule.num_calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn associations_are_read_by_filter_and_become_facts() {
    let rule = mock!(aws_sdk_ec2::Client::describe_iam_instance_profile_associations)
        .match_requests(|request| {
            // No filter on the state: a stopped instance's association stays `associating`.
            request.filters() == [the_filter_for(&[ID, OTHER_ID])]
                && request.association_ids().is_empty()
                && request.max_results() == Some(1000)
        })
        .then_output(|| {
            let row = IamInstanceProfileAssociation::builder()
                .association_id(ROW)
                .instance_id(ID)
                .iam_instance_profile(IamInstanceProfile::builder().arn(ARN).id(PROFILE_ID).build())
                .state(IamInstanceProfileAssociationState::Associating)
                .timestamp(DateTime::from_secs(1_700_000_000))
                .build();
            DescribeIamInstanceProfileAssociationsOutput::builder()
                .iam_instance_profile_associations(row)
                .build()
        });
    let rows = mocked(&rule).associations(&ids(&[ID, OTHER_ID])).await.unwrap();
    assert_eq!(rows, [association(ROW, ARN, AssociationState::Associating, 1_700_000_000)]);
    assert_eq!(rule.num_calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_profile_is_read_by_name() {
    let rule = mock!(aws_sdk_iam::Client::get_instance_profile)
        .match_requests(|request| request.instance_profile_name() == Some("web"))
        .then_output(|| {
            let profile = aws_sdk_iam::types::InstanceProfile::builder()
                .path("/app/")
                .instance_profile_name("web")
                .instance_profile_id(PROFILE_ID)
                .arn(ARN)
                .create_date(DateTime::from_secs(1_700_000_000))
                .set_roles(Some(vec![]))
                .build()
                .unwrap();
            GetInstanceProfileOutput::builder().instance_profile(profile).build()
        });
    let profile = mocked(&rule).profile(&name("web")).await.unwrap().unwrap();
    assert_eq!(profile.arn.to_string(), ARN);
    assert_eq!(profile.id.as_str(), PROFILE_ID);
    assert_eq!(profile.role, None);
    assert_eq!(rule.num_calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn associate_names_the_instance_and_the_arn_alone() {
    let rule = mock!(aws_sdk_ec2::Client::associate_iam_instance_profile)
        .match_requests(|request| {
            request.instance_id() == Some(ID)
                && request.iam_instance_profile() == Some(&the_arn_alone())
        })
        .then_output(|| AssociateIamInstanceProfileOutput::builder().build());
    mocked(&rule).associate(&id(ID), ARN).await.unwrap();
    assert_eq!(rule.num_calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn replace_names_the_association_and_the_arn_alone() {
    let rule = mock!(aws_sdk_ec2::Client::replace_iam_instance_profile_association)
        .match_requests(|request| {
            request.association_id() == Some(ROW)
                && request.iam_instance_profile() == Some(&the_arn_alone())
        })
        .then_output(|| ReplaceIamInstanceProfileAssociationOutput::builder().build());
    mocked(&rule).replace(&row_id(ROW), ARN).await.unwrap();
    assert_eq!(rule.num_calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn disassociate_names_the_association() {
    let rule = mock!(aws_sdk_ec2::Client::disassociate_iam_instance_profile)
        .match_requests(|request| request.association_id() == Some(ROW))
        .then_output(|| DisassociateIamInstanceProfileOutput::builder().build());
    mocked(&rule).disassociate(&row_id(ROW)).await.unwrap();
    assert_eq!(rule.num_calls(), 1);
}

/// One row of the table of errors: what AWS answers, to which call, and what is made of it.
struct Answer {
    to: Operation,
    status: u16,
    code: &'static str,
    message: &'static str,
    /// The kind's name; what it holds shows in the text.
    kind: &'static str,
    display: &'static str,
    tries: usize,
}

const fn answers(
    to: Operation,
    status: u16,
    code: &'static str,
    message: &'static str,
    kind: &'static str,
    display: &'static str,
    tries: usize,
) -> Answer {
    Answer { to, status, code, message, kind, display, tries }
}

const ANSWERS: &[Answer] = &[
    answers(
        Operation::AssociateIamInstanceProfile,
        400,
        "IncorrectState",
        "There is an existing association for instance i-0123456789abcdef0",
        "Conflict",
        "AssociateIamInstanceProfile found the world changed (IncorrectState)",
        1,
    ),
    answers(
        Operation::ReplaceIamInstanceProfileAssociation,
        400,
        "IncorrectState",
        "The association iip-assoc-0a1b2c3d4e5f60718 is not the active association",
        "Conflict",
        "ReplaceIamInstanceProfileAssociation found the world changed (IncorrectState)",
        1,
    ),
    answers(
        Operation::AssociateIamInstanceProfile,
        400,
        "IncorrectInstanceState",
        "The instance 'i-0123456789abcdef0' is not in the 'running' or 'stopped' states.",
        "Conflict",
        "AssociateIamInstanceProfile found the world changed (IncorrectInstanceState)",
        1,
    ),
    answers(
        Operation::DisassociateIamInstanceProfile,
        400,
        "InvalidAssociationID.NotFound",
        "An invalid association-id of 'iip-assoc-0a1b2c3d4e5f60718' was given",
        "Conflict",
        "DisassociateIamInstanceProfile found the world changed (InvalidAssociationID.NotFound)",
        1,
    ),
    answers(
        Operation::ReplaceIamInstanceProfileAssociation,
        400,
        "InvalidAssociationID.NotFound",
        "An invalid association-id of 'iip-assoc-0a1b2c3d4e5f60718' was given",
        "Conflict",
        "ReplaceIamInstanceProfileAssociation found the world changed (InvalidAssociationID.NotFound)",
        1,
    ),
    answers(
        Operation::AssociateIamInstanceProfile,
        400,
        "InvalidInstanceID.NotFound",
        "The instance ID 'i-0123456789abcdef0' does not exist",
        "InstanceNotFound",
        "AssociateIamInstanceProfile found no such instance (InvalidInstanceID.NotFound)",
        1,
    ),
    answers(
        Operation::DescribeInstances,
        400,
        "InvalidInstanceID.NotFound",
        "The instance ID 'i-0123456789abcdef0' does not exist",
        "InstanceNotFound",
        "DescribeInstances found no such instance (InvalidInstanceID.NotFound)",
        1,
    ),
    answers(
        Operation::DescribeInstances,
        400,
        "InvalidInstanceID.Malformed",
        "Invalid id: \"i-0123456789abcdef0\"",
        "Rejected",
        "DescribeInstances was rejected (InvalidInstanceID.Malformed)",
        1,
    ),
    answers(
        Operation::AssociateIamInstanceProfile,
        400,
        "InvalidParameterValue",
        "Value (web) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name",
        "ProfileNotFound",
        "AssociateIamInstanceProfile found no such instance profile (InvalidParameterValue)",
        1,
    ),
    answers(
        Operation::ReplaceIamInstanceProfileAssociation,
        400,
        "InvalidParameterValue",
        "Value (arn:aws:iam::123456789012:instance-profile/app/web) for parameter iamInstanceProfile.arn is \
             invalid. Invalid IAM Instance Profile ARN",
        "ProfileNotFound",
        "ReplaceIamInstanceProfileAssociation found no such instance profile (InvalidParameterValue)",
        1,
    ),
    answers(
        Operation::DescribeIamInstanceProfileAssociations,
        400,
        "InvalidParameterValue",
        "The filter value list may not be empty",
        "Rejected",
        "DescribeIamInstanceProfileAssociations was rejected (InvalidParameterValue)",
        1,
    ),
    answers(
        Operation::AssociateIamInstanceProfile,
        403,
        "UnauthorizedOperation",
        PASS_ROLE_DENIED,
        "Denied",
        "AssociateIamInstanceProfile was denied: the caller needs iam:PassRole on \
             arn:aws:iam::123456789012:role/web (UnauthorizedOperation)",
        1,
    ),
    answers(
        Operation::DescribeInstances,
        403,
        "UnauthorizedOperation",
        "You are not authorized to perform this operation.",
        "Denied",
        "DescribeInstances was denied: the caller needs ec2:DescribeInstances on * (UnauthorizedOperation)",
        1,
    ),
    answers(
        Operation::GetInstanceProfile,
        403,
        "AccessDenied",
        "User: arn:aws:sts::123456789012:assumed-role/function/function is not authorized to perform: \
             iam:GetInstanceProfile on resource: instance profile web because no identity-based policy allows the \
             iam:GetInstanceProfile action",
        "Denied",
        "GetInstanceProfile was denied: the caller needs iam:GetInstanceProfile on instance profile web \
             (AccessDenied)",
        1,
    ),
    answers(
        Operation::DescribeInstances,
        503,
        "RequestLimitExceeded",
        "Request limit exceeded.",
        "Throttled",
        "DescribeInstances was throttled (RequestLimitExceeded)",
        3,
    ),
    answers(
        Operation::AssociateIamInstanceProfile,
        503,
        "RequestLimitExceeded",
        "Request limit exceeded.",
        "Throttled",
        "AssociateIamInstanceProfile was throttled (RequestLimitExceeded)",
        1,
    ),
    answers(
        Operation::ReplaceIamInstanceProfileAssociation,
        503,
        "EC2ThrottledException",
        "Rate exceeded for this account",
        "Throttled",
        "ReplaceIamInstanceProfileAssociation was throttled (EC2ThrottledException)",
        1,
    ),
    answers(
        Operation::GetInstanceProfile,
        400,
        "Throttling",
        "Rate exceeded",
        "Throttled",
        "GetInstanceProfile was throttled (Throttling)",
        3,
    ),
    answers(
        Operation::DescribeIamInstanceProfileAssociations,
        400,
        "ThrottlingException",
        "Rate exceeded",
        "Throttled",
        "DescribeIamInstanceProfileAssociations was throttled (ThrottlingException)",
        3,
    ),
    answers(
        Operation::DescribeInstances,
        500,
        "InternalError",
        "An internal error has occurred",
        "Transient",
        "DescribeInstances did not get through (InternalError)",
        3,
    ),
    answers(
        Operation::AssociateIamInstanceProfile,
        503,
        "Unavailable",
        "The service is unavailable. Please try again shortly.",
        "Transient",
        "AssociateIamInstanceProfile did not get through (Unavailable)",
        1,
    ),
    answers(
        Operation::GetInstanceProfile,
        500,
        "ServiceFailure",
        "The request processing has failed because of an unknown error",
        "Transient",
        "GetInstanceProfile did not get through (ServiceFailure)",
        3,
    ),
    answers(
        Operation::DisassociateIamInstanceProfile,
        503,
        "RequestLimitExceeded",
        "Request limit exceeded.",
        "Throttled",
        "DisassociateIamInstanceProfile was throttled (RequestLimitExceeded)",
        1,
    ),
    answers(
        Operation::AssociateIamInstanceProfile,
        500,
        "InternalError",
        "An internal error has occurred",
        "Transient",
        "AssociateIamInstanceProfile did not get through (InternalError)",
        1,
    ),
    answers(
        Operation::AssociateIamInstanceProfile,
        400,
        "ThrottlingException",
        "Rate exceeded",
        "Throttled",
        "AssociateIamInstanceProfile was throttled (ThrottlingException)",
        1,
    ),
    answers(
        Operation::ReplaceIamInstanceProfileAssociation,
        500,
        "InternalError",
        "An internal error has occurred",
        "Transient",
        "ReplaceIamInstanceProfileAssociation did not get through (InternalError)",
        1,
    ),
    answers(
        Operation::DisassociateIamInstanceProfile,
        500,
        "InternalError",
        "An internal error has occurred",
        "Transient",
        "DisassociateIamInstanceProfile did not get through (InternalError)",
        1,
    ),
    answers(
        Operation::DescribeInstances,
        400,
        "SomethingNew",
        "Nobody has seen this one",
        "Rejected",
        "DescribeInstances was rejected (SomethingNew)",
        1,
    ),
];

#[tokio::test(start_paused = true)]
async fn every_error_code_has_its_meaning_and_keeps_its_message() {
    for answer in ANSWERS {
        let rule = answer.rule();
        let error = error_of(&mocked(&rule), answer.to).await;
        let label = format!("{} {}: {error:?}", answer.to, answer.code);
        assert_eq!(error.operation, answer.to, "{label}");
        let kind = format!("{:?}", error.kind);
        assert_eq!(kind.split('(').next(), Some(answer.kind), "{label}");
        assert_eq!(error.code.as_deref(), Some(answer.code), "{label}");
        assert_eq!(error.to_string(), answer.display, "{label}");
        assert_eq!(chain(&error), format!("{}: {}", answer.display, answer.message), "{label}");
        assert_no_link_repeats_the_next(&error);
        assert_eq!(rule.num_calls(), answer.tries, "{label}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_profile_that_iam_does_not_know_is_no_error() {
    let message = "Instance Profile web cannot be found.";
    let body = iam_error("NoSuchEntity", message);
    let rule = mock!(aws_sdk_iam::Client::get_instance_profile)
        .sequence()
        .http_status(404, Some(body))
        .build();
    assert_eq!(mocked(&rule).profile(&name("web")).await.unwrap(), None);
    assert_eq!(rule.num_calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_throttled_once_is_tried_again() {
    let nothing = "<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>";
    let rule = mock!(aws_sdk_ec2::Client::describe_instances)
        .sequence()
        .http_status(503, Some(ec2_error("RequestLimitExceeded", "Request limit exceeded.")))
        .http_status(200, Some(nothing.to_owned()))
        .build();
    assert_eq!(mocked(&rule).instances(&ids(&[ID])).await.unwrap(), []);
    assert_eq!(rule.num_calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_write_has_one_try() {
    for (status, code, kind) in [
        (503, "RequestLimitExceeded", ErrorKind::Throttled),
        (500, "InternalError", ErrorKind::Transient),
    ] {
        let rule = mock!(aws_sdk_ec2::Client::associate_iam_instance_profile)
            .sequence()
            .http_status(status, Some(ec2_error(code, "Not now.")))
            .http_status(
                200,
                Some(association_answer("AssociateIamInstanceProfile", "associating")),
            )
            .build();
        let error = mocked(&rule).associate(&id(ID), ARN).await.unwrap_err();
        assert_eq!((error.kind, rule.num_calls()), (kind, 1));
    }
}

// ---- Where there is no answer ---------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_answered_ends_and_may_be_tried_again() {
    let network = NeverClient::new();
    let cloud = cloud_over(&sdk_over(network.clone()));
    for operation in Operation::ALL {
        let (began, called) = (tokio::time::Instant::now(), network.num_calls());
        let error = error_of(&cloud, operation).await;
        assert_eq!(
            (error.operation, &error.kind, &error.code),
            (operation, &ErrorKind::Transient, &None)
        );
        assert_eq!(error.to_string(), format!("{operation} did not get through"));
        assert!(chain(&error).contains("timeout"), "{}", chain(&error));
        assert_no_link_repeats_the_next(&error);
        // What a second one would be answered says nothing about the first.
        let is_tried_again = !matches!(
            operation,
            Operation::AssociateIamInstanceProfile
                | Operation::DisassociateIamInstanceProfile
                | Operation::ReplaceIamInstanceProfileAssociation
        );
        assert_eq!(network.num_calls() > called + 1, is_tried_again, "{operation}");
        assert!(began.elapsed() <= Duration::from_secs(12), "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_cannot_be_sent_may_be_tried_again() {
    for operation in Operation::ALL {
        let (cloud, _) = replaying([]);
        let error = error_of(&cloud, operation).await;
        assert_eq!(
            (error.operation, &error.kind, &error.code),
            (operation, &ErrorKind::Transient, &None)
        );
        assert!(chain(&error).contains("dispatch failure"), "{}", chain(&error));
        assert_no_link_repeats_the_next(&error);
    }
}

// ---- By bodies as EC2 and IAM write them ----------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn instances_come_in_pages() {
    let first = r#"<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
    <requestId>8f7724cf-496f-496e-8fe3-example00001</requestId>
    <reservationSet>
        <item>
            <reservationId>r-0a1b2c3d4e5f60718</reservationId>
            <ownerId>123456789012</ownerId>
            <groupSet/>
            <instancesSet>
                <item>
                    <instanceId>i-0123456789abcdef0</instanceId>
                    <imageId>ami-0a1b2c3d4e5f60718</imageId>
                    <instanceState><code>16</code><name>running</name></instanceState>
                    <privateDnsName>ip-10-0-0-12.ec2.internal</privateDnsName>
                    <reason/>
                    <amiLaunchIndex>0</amiLaunchIndex>
                    <productCodes/>
                    <instanceType>t3.micro</instanceType>
                    <launchTime>2026-11-02T09:14:00.000Z</launchTime>
                    <placement><availabilityZone>us-east-1a</availabilityZone><tenancy>default</tenancy></placement>
                    <monitoring><state>disabled</state></monitoring>
                    <iamInstanceProfile>
                        <arn>arn:aws:iam::123456789012:instance-profile/stale</arn>
                        <id>AIPASTALE00000000000</id>
                    </iamInstanceProfile>
                    <tagSet>
                        <item><key>InstanceProfile</key><value>app=web+1,x.y@z-0</value></item>
                        <item><key>Name</key><value>R&amp;D &lt;one&gt;</value></item>
                        <item><key>note</key><value/></item>
                    </tagSet>
                    <operator><managed>false</managed></operator>
                </item>
                <item>
                    <instanceId>i-0fedcba9876543210</instanceId>
                    <instanceState><code>272</code><name>hibernating</name></instanceState>
                </item>
            </instancesSet>
            <requesterId>111122223333</requesterId>
        </item>
    </reservationSet>
    <nextToken>eyJ2IjoiMiIsImMiOiJwYWdlLTIifQ==</nextToken>
</DescribeInstancesResponse>"#;
    let second = r#"<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
    <requestId>8f7724cf-496f-496e-8fe3-example00002</requestId>
    <reservationSet>
        <item>
            <reservationId>r-0b1b2c3d4e5f60718</reservationId>
            <ownerId>111122223333</ownerId>
            <instancesSet>
                <item>
                    <instanceId>i-00000000000000003</instanceId>
                    <instanceState><code>80</code><name>stopped</name></instanceState>
                    <tagSet><item><key>InstanceProfile</key><value>web</value></item></tagSet>
                    <operator><managed>true</managed><principal>eks.amazonaws.com</principal></operator>
                </item>
                <item>
                    <instanceId>i-00000000000000004</instanceId>
                    <instanceState><code>48</code><name>terminated</name></instanceState>
                    <operator><managed>true</managed></operator>
                </item>
            </instancesSet>
        </item>
    </reservationSet>
</DescribeInstancesResponse>"#;
    let (cloud, network) = replaying([(200, first.to_owned()), (200, second.to_owned())]);
    let asked = [ID, OTHER_ID, "i-00000000000000003", "i-00000000000000004"];
    let found = cloud.instances(&ids(&asked)).await.unwrap();

    let seen: Vec<_> = found
        .iter()
        .map(|i| (i.id.as_str(), i.account.as_ref().unwrap().as_str(), i.state.as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            (ID, "123456789012", "running"),
            (OTHER_ID, "123456789012", "hibernating"),
            ("i-00000000000000003", "111122223333", "stopped"),
            ("i-00000000000000004", "111122223333", "terminated"),
        ]
    );
    assert_eq!(found[1].state, InstanceState::Unknown("hibernating".to_owned()));
    assert_eq!(
        tags_of(&found[0]),
        [("InstanceProfile", "app=web+1,x.y@z-0"), ("Name", "R&D <one>"), ("note", "")]
    );
    assert!(found[1].tags.is_empty());
    let keepers: Vec<_> = found.iter().map(|instance| instance.keeper.clone()).collect();
    let eks = Keeper::Service(Some("eks.amazonaws.com".to_owned()));
    assert_eq!(keepers, [Keeper::Owner, Keeper::Owner, eks, Keeper::Service(None)]);

    let mut expected = filtered_request("DescribeInstances", &asked);
    let [one, two] = &sent(&network)[..] else { panic!("two pages, two requests") };
    assert_eq!(*one, expected);
    expected.insert("NextToken".to_owned(), "eyJ2IjoiMiIsImMiOiJwYWdlLTIifQ==".to_owned());
    assert_eq!(*two, expected);
}

#[tokio::test(start_paused = true)]
async fn associations_come_in_pages_with_their_timestamps() {
    let page = |rows: &str, token: &str| {
        format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<DescribeIamInstanceProfileAssociationsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
    <requestId>84c2d2a6-12dc-491f-a9ee-example00001</requestId>
    <iamInstanceProfileAssociationSet>{rows}</iamInstanceProfileAssociationSet>{token}
</DescribeIamInstanceProfileAssociationsResponse>"#
        )
    };
    let row = |row: &str, arn: &str, state: &str, time: &str| {
        format!(
            "<item><associationId>{row}</associationId><iamInstanceProfile><arn>{arn}</arn><id>{PROFILE_ID}</id>\
             </iamInstanceProfile><instanceId>{ID}</instanceId><state>{state}</state><timestamp>{time}</timestamp></item>"
        )
    };
    let old = "arn:aws:iam::123456789012:instance-profile/old";
    let first =
        row("iip-assoc-00000000000000001", old, "disassociating", "2023-11-14T22:13:20.000Z")
            + &row("iip-assoc-00000000000000002", ARN, "associating", "2023-11-14T22:13:25Z");
    let second = row("iip-assoc-00000000000000003", ARN, "settling", "2023-11-14T22:13:26Z");
    let (cloud, network) =
        replaying([(200, page(&first, "<nextToken>page-2</nextToken>")), (200, page(&second, ""))]);
    let rows = cloud.associations(&ids(&[ID])).await.unwrap();
    assert_eq!(
        rows,
        [
            association(
                "iip-assoc-00000000000000001",
                old,
                AssociationState::Disassociating,
                1_700_000_000
            ),
            association(
                "iip-assoc-00000000000000002",
                ARN,
                AssociationState::Associating,
                1_700_000_005
            ),
            association(
                "iip-assoc-00000000000000003",
                ARN,
                AssociationState::Unknown("settling".to_owned()),
                1_700_000_006
            ),
        ]
    );
    let newest = Association::in_force(rows).unwrap();
    assert_eq!(newest.id.as_str(), "iip-assoc-00000000000000003");

    let mut expected = filtered_request("DescribeIamInstanceProfileAssociations", &[ID]);
    let [one, two] = &sent(&network)[..] else { panic!("two pages, two requests") };
    assert_eq!(*one, expected);
    expected.insert("NextToken".to_owned(), "page-2".to_owned());
    assert_eq!(*two, expected);
}

#[tokio::test(start_paused = true)]
async fn nothing_found_is_an_answer() {
    let instances = r#"<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId><reservationSet/></DescribeInstancesResponse>"#;
    let rows = r#"<DescribeIamInstanceProfileAssociationsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId><iamInstanceProfileAssociationSet/></DescribeIamInstanceProfileAssociationsResponse>"#;
    let (cloud, _) = replaying([(200, instances.to_owned()), (200, rows.to_owned())]);
    assert_eq!(cloud.instances(&ids(&[ID])).await.unwrap(), []);
    assert_eq!(cloud.associations(&ids(&[ID])).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn reads_name_at_most_two_hundred_instances_each() {
    let many: Vec<String> = (0..201).map(|number| format!("i-{number:017x}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let instances = "<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>";
    let rows = "<DescribeIamInstanceProfileAssociationsResponse><iamInstanceProfileAssociationSet/>\
                </DescribeIamInstanceProfileAssociationsResponse>";
    let bodies = [instances, instances, rows, rows].map(|body| (200, body.to_owned()));
    let (cloud, network) = replaying(bodies);
    cloud.instances(&ids(&many)).await.unwrap();
    cloud.associations(&ids(&many)).await.unwrap();
    let (first, rest) = many.split_at(200);
    assert_eq!(
        sent(&network),
        [
            filtered_request("DescribeInstances", first),
            filtered_request("DescribeInstances", rest),
            filtered_request("DescribeIamInstanceProfileAssociations", first),
            filtered_request("DescribeIamInstanceProfileAssociations", rest),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn tags_are_read_by_a_call_of_their_own() {
    let page = |tag: &str, token: &str| {
        format!(
            r#"<DescribeTagsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId><tagSet><item><resourceId>{ID}</resourceId><resourceType>instance</resourceType>{tag}</item></tagSet>{token}</DescribeTagsResponse>"#
        )
    };
    let one = page("<key>App</key><value>shop</value>", "<nextToken>page-2</nextToken>");
    let two = page("<key>Empty</key><value/>", "");
    let (cloud, network) = replaying([(200, one), (200, two)]);
    let tags = cloud.tags(&ids(&[ID])).await.unwrap().remove(&id(ID)).unwrap();
    let expected = [("App".to_owned(), "shop".to_owned()), ("Empty".to_owned(), String::new())];
    assert_eq!(tags, expected.into());
    let [first, second] = &sent(&network)[..] else { panic!("two pages, two requests") };
    assert_eq!(first["Filter.1.Name"], "resource-id");
    assert_eq!(first["Filter.1.Value.1"], ID);
    assert_eq!(second["NextToken"], "page-2");
}

#[tokio::test(start_paused = true)]
async fn nothing_to_read_is_no_request() {
    let (cloud, network) = replaying([]);
    assert_eq!(cloud.instances(&[]).await.unwrap(), []);
    assert_eq!(cloud.associations(&[]).await.unwrap(), []);
    assert!(sent(&network).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_trust_policy_arrives_percent_encoded() {
    let body = r#"<GetInstanceProfileResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">
  <GetInstanceProfileResult>
    <InstanceProfile>
      <Path>/app/</Path>
      <InstanceProfileName>web</InstanceProfileName>
      <InstanceProfileId>AIPACKCEVSQ6C2EXAMPLE</InstanceProfileId>
      <Arn>arn:aws:iam::123456789012:instance-profile/app/web</Arn>
      <CreateDate>2026-11-02T09:00:00Z</CreateDate>
      <Roles>
        <member>
          <Path>/</Path>
          <RoleName>web-role</RoleName>
          <RoleId>AROACKCEVSQ6C2EXAMPLE</RoleId>
          <Arn>arn:aws:iam::123456789012:role/web-role</Arn>
          <CreateDate>2026-11-02T08:59:00Z</CreateDate>
          <AssumeRolePolicyDocument>%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%5B%7B%22Sid%22%3A%22a%2Bb%20%C3%A9%22%2C%22Effect%22%3A%22Allow%22%2C%22Principal%22%3A%7B%22Service%22%3A%22ec2.amazonaws.com%22%7D%2C%22Action%22%3A%22sts%3AAssumeRole%22%7D%5D%7D</AssumeRolePolicyDocument>
        </member>
      </Roles>
    </InstanceProfile>
  </GetInstanceProfileResult>
  <ResponseMetadata>
    <RequestId>37289fda-29ba-11de-8c4d-example00001</RequestId>
  </ResponseMetadata>
</GetInstanceProfileResponse>"#;
    let (cloud, network) = replaying([(200, body.to_owned())]);
    let profile = cloud.profile(&name("web")).await.unwrap().unwrap();
    assert_eq!((profile.arn.to_string().as_str(), profile.id.as_str()), (ARN, PROFILE_ID));
    let role = profile.role.unwrap();
    assert_eq!(role.name, "web-role");
    assert_eq!(
        role.trust_policy.unwrap(),
        r#"{"Version":"2012-10-17","Statement":[{"Sid":"a+b é","Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}"#
    );
    let expected = request(&[
        ("Action", "GetInstanceProfile"),
        ("Version", "2010-05-08"),
        ("InstanceProfileName", "web"),
    ]);
    assert_eq!(sent(&network), [expected]);
}

#[tokio::test(start_paused = true)]
async fn writes_say_exactly_what_they_change() {
    let (cloud, network) = replaying([
        (200, association_answer("AssociateIamInstanceProfile", "associating")),
        (200, association_answer("ReplaceIamInstanceProfileAssociation", "associating")),
        (200, association_answer("DisassociateIamInstanceProfile", "disassociating")),
    ]);
    let evidence = Some(Association {
        since: None,
        ..association(ROW, ARN, AssociationState::Associating, 0)
    });
    assert_eq!(cloud.associate(&id(ID), ARN).await.unwrap(), evidence);
    assert_eq!(cloud.replace(&row_id(ROW), ARN).await.unwrap(), evidence);
    cloud.disassociate(&row_id(ROW)).await.unwrap();
    assert_eq!(
        sent(&network),
        [
            request(&[
                ("Action", "AssociateIamInstanceProfile"),
                ("Version", "2016-11-15"),
                ("InstanceId", ID),
                ("IamInstanceProfile.Arn", ARN),
            ]),
            request(&[
                ("Action", "ReplaceIamInstanceProfileAssociation"),
                ("Version", "2016-11-15"),
                ("AssociationId", ROW),
                ("IamInstanceProfile.Arn", ARN),
            ]),
            request(&[
                ("Action", "DisassociateIamInstanceProfile"),
                ("Version", "2016-11-15"),
                ("AssociationId", ROW),
            ]),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_write_did_is_read_as_far_as_it_is_told() {
    let row = |content: &str| {
        let answer = format!(
            "<AssociateIamInstanceProfileResponse>{content}</AssociateIamInstanceProfileResponse>"
        );
        (200, answer)
    };
    let timed = association_answer("AssociateIamInstanceProfile", "associated")
        .replace("</state>", "</state><timestamp>2023-11-14T22:13:20.000Z</timestamp>");
    let (cloud, _) = replaying([
        (200, timed),
        row("<requestId>r</requestId>"),
        row(
            "<iamInstanceProfileAssociation><associationId>iip-assoc-1</associationId></iamInstanceProfileAssociation>",
        ),
    ]);
    let whole = association(ROW, ARN, AssociationState::Associated, 1_700_000_000);
    assert_eq!(cloud.associate(&id(ID), ARN).await.unwrap(), Some(whole));
    // EC2 took the call: an answer that does not say more is no error.
    assert_eq!(cloud.associate(&id(ID), ARN).await.unwrap(), None);
    assert_eq!(cloud.associate(&id(ID), ARN).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_read_says_nothing_about_what_was_done() {
    for body in ["", "<html>welcome", "{\"message\": \"hello\"}", "<Unexpected/>"] {
        for operation in Operation::ALL {
            let (cloud, _) = replaying([(200, body.to_owned())]);
            let error = error_of(&cloud, operation).await;
            assert_eq!(
                (&error.kind, &error.code),
                (&ErrorKind::Unreadable, &None),
                "{operation} {body:?}"
            );
            assert_eq!(
                error.to_string(),
                format!("{operation} was answered with what cannot be read")
            );
            assert_no_link_repeats_the_next(&error);
            assert!(
                chain(&error).to_lowercase().contains("xml") || chain(&error).contains("root"),
                "the reader's complaint is kept: {}",
                chain(&error)
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_instance_that_cannot_be_read_makes_its_page_unreadable() {
    let item = |id: &str, launched: &str| {
        format!(
            "<item><ownerId>123456789012</ownerId><instancesSet><item><instanceId>{id}</instanceId>\
             <launchTime>{launched}</launchTime></item></instancesSet></item>"
        )
    };
    let page = item(ID, "2026-11-02T09:14:00.000Z") + &item(OTHER_ID, "the day before");
    let (cloud, network) = replaying([(); 3].map(|()| instances_page(&page, "")));
    let error = cloud.instances(&ids(&[ID, OTHER_ID])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreadable, "{}", chain(&error));
    assert_eq!(sent(&network).len(), 1, "the same question has the same answer");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_cut_short_is_unreadable() {
    let aws = |body: &str| {
        let network = network_answering([(); 3].map(|()| (200, body.to_owned())));
        Aws::with(sdk_over(network)).of(&model::Region::parse("us-east-1").unwrap())
    };
    let (_, whole) = instances_page("<item><ownerId>123456789012</ownerId></item>", "");
    for end in [whole.len() / 4, whole.len() / 2, whole.len() - 5] {
        let error = aws(&whole[..end]).instances(&ids(&[ID])).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unreadable, "{}", chain(&error));
    }
}

#[tokio::test(start_paused = true)]
async fn an_encoded_denial_is_kept_whole_and_says_how_to_read_it() {
    let encoded = "aB3-_xY9zQ".repeat(900);
    let message = format!(
        "You are not authorized to perform this operation. Encoded authorization failure message: {encoded}"
    );
    for operation in
        [Operation::AssociateIamInstanceProfile, Operation::ReplaceIamInstanceProfileAssociation]
    {
        let (cloud, _) = replaying([(403, ec2_error("UnauthorizedOperation", &message))]);
        let text = chain(&error_of(&cloud, operation).await);
        assert!(text.contains(&message), "{text}");
        assert!(text.contains("the caller needs iam:PassRole on the profile's role"), "{text}");
        assert!(text.contains("aws sts decode-authorization-message"), "{text}");
        let sent = json!({ "Successful": [{ "Id": "0", "MessageId": "m" }], "Failed": [] });
        let (network, aws) = queues_answering([(200, sent)]);
        let letter = DeadLetter { body: "b", message_id: "m", error_type: "Denied", error: &text };
        aws.give_up(DEAD_LETTER_QUEUE, &[letter]).await;
        let call = &asked(&network, "SendMessageBatch")[0];
        let kept = &call["Entries"][0]["MessageAttributes"]["Error"]["StringValue"];
        assert_eq!(kept, &json!(text));
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_that_a_region_refuses_are_explained() {
    let message = "AWS was not able to validate the provided access credentials";
    let (cloud, _) = replaying([(401, ec2_error("AuthFailure", message))]);
    let text = chain(&error_of(&cloud, Operation::DescribeInstances).await);
    for part in [message, "opt-in Region that the account has not enabled", "global endpoint"] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_that_cannot_be_read_goes_by_its_status() {
    for (status, kind) in
        [(400, ErrorKind::Rejected), (502, ErrorKind::Transient), (429, ErrorKind::Throttled)]
    {
        for body in ["", "<html>bad gateway</html>"] {
            let (cloud, _) = replaying([(); 3].map(|()| (status, body.to_owned())));
            let error = error_of(&cloud, Operation::AssociateIamInstanceProfile).await;
            assert_eq!(
                (&error.kind, &error.code),
                (&kind, &None),
                "{status} {body:?}: {}",
                chain(&error)
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_profile_whose_arn_cannot_be_read_is_no_profile_to_attach() {
    let body = r#"<GetInstanceProfileResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><GetInstanceProfileResult><InstanceProfile><Path>/</Path><InstanceProfileName>web</InstanceProfileName><InstanceProfileId>AIPACKCEVSQ6C2EXAMPLE</InstanceProfileId><Arn>arn:aws:iam::123456789012:role/web</Arn><CreateDate>2026-11-02T09:00:00Z</CreateDate><Roles/></InstanceProfile></GetInstanceProfileResult></GetInstanceProfileResponse>"#;
    let (cloud, _) = replaying([(200, body.to_owned())]);
    let error = cloud.profile(&name("web")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreadable);
    assert!(chain(&error).contains("instance-profile/PATH/NAME"), "{}", chain(&error));
}

// ---- Whole fleets ---------------------------------------------------------------------------------------------------

fn by(name: &str, values: &[&str]) -> model::Filter {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    model::Filter { name: name.to_owned(), values }
}

/// A page of `DescribeInstances`.
fn instances_page(items: &str, token: &str) -> (u16, String) {
    let body = format!(
        "<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>\
         <reservationSet>{items}</reservationSet>{token}</DescribeInstancesResponse>"
    );
    (200, body)
}

/// A page of `DescribeIamInstanceProfileAssociations`.
fn associations_page(items: &str, token: &str) -> (u16, String) {
    let body = format!(
        "<DescribeIamInstanceProfileAssociationsResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
         <requestId>r</requestId><iamInstanceProfileAssociationSet>{items}</iamInstanceProfileAssociationSet>{token}\
         </DescribeIamInstanceProfileAssociationsResponse>"
    );
    (200, body)
}

#[tokio::test(start_paused = true)]
async fn a_page_of_instances_is_asked_for_by_its_filters_and_token() {
    let item = |owner: &str, ids: &[&str]| {
        let instances: Vec<_> = ids
            .iter()
            .map(|id| {
                format!(
                    "<item><instanceId>{id}</instanceId><instanceState><code>16</code><name>running</name>\
                     </instanceState><launchTime>2023-11-14T22:13:20.000Z</launchTime></item>"
                )
            })
            .collect();
        let instances = instances.concat();
        format!("<item><ownerId>{owner}</ownerId><instancesSet>{instances}</instancesSet></item>")
    };
    let first = item("123456789012", &[ID, OTHER_ID]) + &item("111122223333", &["i-3"]);
    let unstarted = "<item><ownerId>123456789012</ownerId><instancesSet><item><instanceId>i-4</instanceId></item>\
                     <item><instanceId>no id</instanceId></item></instancesSet></item>";
    let (cloud, network) = replaying([
        instances_page(&first, "<nextToken>eyJ2IjoiMiJ9+/==</nextToken>"),
        instances_page(unstarted, "<nextToken></nextToken>"),
        instances_page("", ""),
    ]);
    let filters = [by("tag:Environment", &["prod", "a b&c=d"]), by("vpc-id", &["vpc-1"])];
    let page = cloud.instances_page(&filters, None, 1000).await.unwrap();
    assert_eq!(page.next.as_deref(), Some("eyJ2IjoiMiJ9+/=="));
    let seen: Vec<_> = page
        .rows
        .iter()
        .map(|row| (row.id.as_str(), row.account.as_ref().unwrap().as_str(), row.started))
        .collect();
    let started = Some(1_700_000_000_000_000_000);
    assert_eq!(
        seen,
        [
            (ID, "123456789012", started),
            (OTHER_ID, "123456789012", started),
            ("i-3", "111122223333", started)
        ]
    );
    let page = cloud.instances_page(&filters, page.next.as_deref(), 1000).await.unwrap();
    assert_eq!(page.next, None, "an empty token is the end");
    let [row] = &page.rows[..] else { panic!("what has no legal id is nobody: {page:?}") };
    assert_eq!((row.id.as_str(), row.started), ("i-4", None));
    let page = cloud.instances_page(&[], None, 1000).await.unwrap();
    assert_eq!(page, Page { rows: vec![], next: None });

    let mut filtered = request(&[
        ("Action", "DescribeInstances"),
        ("Version", "2016-11-15"),
        ("MaxResults", "1000"),
        ("Filter.1.Name", "tag:Environment"),
        ("Filter.1.Value.1", "prod"),
        ("Filter.1.Value.2", "a b&c=d"),
        ("Filter.2.Name", "vpc-id"),
        ("Filter.2.Value.1", "vpc-1"),
    ]);
    let sent = sent(&network);
    assert_eq!(sent[0], filtered);
    filtered.insert("NextToken".to_owned(), "eyJ2IjoiMiJ9+/==".to_owned());
    assert_eq!(sent[1], filtered);
    let everything =
        [("Action", "DescribeInstances"), ("Version", "2016-11-15"), ("MaxResults", "1000")];
    assert_eq!(sent[2..], [request(&everything)]);
}

#[tokio::test(start_paused = true)]
async fn a_page_of_associations_has_no_filter() {
    let item = format!(
        "<item><associationId>{ROW}</associationId><instanceId>{ID}</instanceId><iamInstanceProfile><arn>{ARN}</arn>\
         <id>{PROFILE_ID}</id></iamInstanceProfile><state>associating</state>\
         <timestamp>2023-11-14T22:13:20.000Z</timestamp></item>"
    );
    // An association without an instance cannot be told about.
    let nobodys =
        "<item><associationId>iip-assoc-1</associationId><state>associated</state></item>";
    let (cloud, network) = replaying([
        associations_page(&(item + nobodys), "<nextToken>page-2</nextToken>"),
        associations_page("", "<nextToken/>"),
    ]);
    let page = cloud.associations_page(None).await.unwrap();
    let row = association(ROW, ARN, AssociationState::Associating, 1_700_000_000);
    assert_eq!(page, Page { rows: vec![row], next: Some("page-2".to_owned()) });
    let page = cloud.associations_page(page.next.as_deref()).await.unwrap();
    assert_eq!(page, Page { rows: vec![], next: None });
    let mut expected = request(&[
        ("Action", "DescribeIamInstanceProfileAssociations"),
        ("Version", "2016-11-15"),
        ("MaxResults", "1000"),
    ]);
    let [one, two] = &sent(&network)[..] else { panic!("two pages, two requests") };
    assert_eq!(*one, expected);
    expected.insert("NextToken".to_owned(), "page-2".to_owned());
    assert_eq!(*two, expected);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_throttled_is_asked_for_again_and_one_that_is_refused_is_not() {
    for (code, kind, tries) in [
        ("RequestLimitExceeded", ErrorKind::Throttled, 3),
        ("InvalidParameterValue", ErrorKind::Rejected, 1),
    ] {
        let answers = [(); 3].map(|()| (400, ec2_error(code, "The filter 'x' is invalid")));
        let (cloud, network) = replaying(answers.clone());
        let error = cloud.instances_page(&[by("x", &["y"])], None, 1000).await.unwrap_err();
        assert_eq!((error.operation, error.kind), (Operation::DescribeInstances, kind.clone()));
        assert_eq!(sent(&network).len(), tries, "{code}");
        let (cloud, network) = replaying(answers);
        let error = cloud.associations_page(None).await.unwrap_err();
        let operation = Operation::DescribeIamInstanceProfileAssociations;
        assert_eq!((error.operation, error.kind), (operation, kind));
        assert_eq!(sent(&network).len(), tries, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_has_longer_than_a_call_and_an_end() {
    let network = NeverClient::new();
    let cloud = cloud_over(&sdk_over(network.clone()));
    let began = tokio::time::Instant::now();
    let error = cloud.instances_page(&[], None, 1000).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient);
    // A thousand instances are megabytes.
    let time = began.elapsed();
    assert!((Duration::from_secs(30)..=Duration::from_secs(95)).contains(&time), "{time:?}");
}

// ---- SQS ------------------------------------------------------------------------------------------------------------

const QUEUE: &str = "arn:aws:sqs:us-east-1:123456789012:events";
const QUEUE_URL: &str = "https://sqs.us-east-1.amazonaws.com/123456789012/events";
const DEAD_LETTER_QUEUE: &str = "https://sqs.us-east-1.amazonaws.com/123456789012/dead-letters";

#[tokio::test(start_paused = true)]
async fn messages_are_hidden_ten_a_call_and_each_has_its_own_answer() {
    let failed = |id: &str, code: &str| json!({ "Id": id, "SenderFault": true, "Code": code, "Message": format!("{code} it is.") });
    let successful: Vec<Value> =
        [0, 2, 3, 4, 5, 6, 7, 8].map(|id| json!({ "Id": id.to_string() })).into();
    let first = json!({
        "Successful": successful,
        "Failed": [failed("9", "MessageNotInflight"), failed("1", "ReceiptHandleIsInvalid")],
    });
    let second = json!({ "Successful": [{ "Id": "1" }], "Failed": [failed("0", "InternalError")] });
    let (network, aws) = queues_answering([(200, first), (200, second)]);
    let receipts: Vec<String> = (0..12).map(|number| format!("handle-{number}")).collect();
    let times = [
        // Whole seconds, and never less than was asked for.
        (Duration::ZERO, 0),
        (Duration::from_millis(1), 1),
        (Duration::from_millis(5200), 6),
        // No longer than SQS takes.
        (Duration::from_hours(13), 43_200),
    ];
    let hidden: Vec<_> = receipts
        .iter()
        .zip(times.iter().cycle())
        .map(|(receipt, (for_time, _))| Hidden { receipt, for_time: *for_time })
        .collect();
    let results = aws.hide(&queue(QUEUE), &hidden).await;
    assert_eq!(
        codes(&results),
        [
            (1, "ReceiptHandleIsInvalid".to_owned()),
            (9, "MessageNotInflight".to_owned()),
            (10, "InternalError".to_owned())
        ]
    );
    assert_eq!(results.len(), 12);
    assert_eq!(
        chain(results[1].as_ref().unwrap_err()),
        "ChangeMessageVisibility failed (ReceiptHandleIsInvalid): ReceiptHandleIsInvalid it is."
    );
    let entry = |id: usize, index: usize| {
        json!({
            "Id": id.to_string(), "ReceiptHandle": receipts[index],
            "VisibilityTimeout": times[index % times.len()].1,
        })
    };
    let call = |entries: Vec<Value>| json!({ "QueueUrl": QUEUE_URL, "Entries": entries });
    assert_eq!(
        asked(&network, "ChangeMessageVisibilityBatch"),
        [
            call((0..10).map(|index| entry(index, index)).collect()),
            call((0..2).map(|index| entry(index, 10 + index)).collect()),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_queue_is_named_by_the_endpoint_of_its_own_region_and_by_its_account() {
    for (arn, endpoint, url) in [
        (QUEUE, None, QUEUE_URL),
        (
            "arn:aws:sqs:eu-west-1:111122223333:of-others_1.fifo",
            None,
            "https://sqs.eu-west-1.amazonaws.com/111122223333/of-others_1.fifo",
        ),
        (
            "arn:aws-cn:sqs:cn-north-1:123456789012:events",
            None,
            "https://sqs.cn-north-1.amazonaws.com.cn/123456789012/events",
        ),
        (
            "arn:aws-us-gov:sqs:us-gov-west-1:123456789012:events",
            None,
            "https://sqs.us-gov-west-1.amazonaws.com/123456789012/events",
        ),
        (QUEUE, Some("http://127.0.0.1:4566"), "http://127.0.0.1:4566/123456789012/events"),
        (QUEUE, Some("http://127.0.0.1:4566/"), "http://127.0.0.1:4566/123456789012/events"),
    ] {
        let done = json!({ "Successful": [{ "Id": "0" }], "Failed": [] });
        let network = network_answering([(200, done.to_string())]);
        let mut sdk = sdk_over(network.clone()).into_builder();
        sdk.set_endpoint_url(endpoint.map(str::to_owned));
        let hidden = Hidden { receipt: "handle", for_time: Duration::from_secs(5) };
        let results = Aws::with(sdk.build()).hide(&queue(arn), &[hidden]).await;
        assert_eq!(codes(&results), [], "{arn}");
        let [body] = &asked(&network, "ChangeMessageVisibilityBatch")[..] else { panic!("one") };
        assert_eq!(body["QueueUrl"], url);
        let request = network.actual_requests().next().unwrap();
        let host: Vec<_> = url.split('/').take(3).collect();
        assert_eq!(request.uri().trim_end_matches('/'), host.join("/"), "{arn}");
        let region = arn.split(':').nth(3).unwrap();
        let signature = request.headers().get("authorization").unwrap();
        assert!(signature.contains(&format!("/{region}/sqs/aws4_request")), "{signature}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_the_body_as_it_came_with_the_reason_beside_it() {
    let sent = json!({ "Successful": [{ "Id": "0", "MessageId": "m", "MD5OfMessageBody": "d" }], "Failed": [] });
    let lost = json!({
        "Successful": [],
        "Failed": [{ "Id": "0", "SenderFault": false, "Code": "InternalError" }],
    });
    let (network, aws) = queues_answering([(200, sent.clone()), (200, lost), (200, sent)]);
    let long = format!("\u{0}\u{1b}[31m\u{fffe}{}", "é".repeat(40_000));
    let letters = [
        ("{\"a\": \"\u{1F980}\"}\r\n", "m-1", "MalformedEvent", "missing field `detail`"),
        ("two", "m-2", "Denied", "a\ttab and a\nline"),
        ("three", "m-3", "Rejected", long.as_str()),
    ]
    .map(|(body, message_id, error_type, error)| DeadLetter {
        body,
        message_id,
        error_type,
        error,
    });
    let results = aws.give_up(DEAD_LETTER_QUEUE, &letters).await;
    assert_eq!(codes(&results), [(1, "InternalError".to_owned())]);
    assert_eq!(results.len(), 3);
    assert_eq!(
        chain(results[1].as_ref().unwrap_err()),
        "SendMessage failed (InternalError): SQS sent no message"
    );
    let calls = asked(&network, "SendMessageBatch");
    let text = |value: &str| json!({ "DataType": "String", "StringValue": value });
    // 64 KiB, of which the escaped controls are 14 bytes.
    let cut = format!("\\u{{0}}\\u{{1b}}[31m{}", "é".repeat(32_760));
    for ((letter, call), error) in
        letters.iter().zip(&calls).zip(["missing field `detail`", "a\\ttab and a\\nline", &cut])
    {
        let entry = json!({
            "Id": "0",
            "MessageBody": letter.body,
            "MessageAttributes": {
                "ErrorType": text(letter.error_type),
                "Error": text(error),
                "MessageId": text(letter.message_id),
            },
        });
        assert_eq!(*call, json!({ "QueueUrl": DEAD_LETTER_QUEUE, "Entries": [entry] }));
    }
    assert_eq!(calls.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_queue_that_fails_has_failed_for_each_of_its_messages() {
    for (status, kind, code, tries) in [
        (400, "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", 1),
        (403, "AccessDeniedException", "AccessDenied", 1),
        (403, "RequestThrottled", "RequestThrottled", 3),
        (500, "InternalFailure", "InternalFailure", 3),
    ] {
        let answer = json!({ "__type": format!("com.amazonaws.sqs#{kind}"), "message": "No." });
        let answers = vec![(status, answer.to_string()); 3];
        let network = network_with_header(answers, Some(&format!("{code};Sender")));
        let aws = Aws::with(sdk_over(network.clone()));
        let hidden = Hidden { receipt: "handle", for_time: Duration::from_secs(5) };
        let results = aws.hide(&queue(QUEUE), &[hidden, hidden]).await;
        assert_eq!(codes(&results), [(0, code.to_owned()), (1, code.to_owned())]);
        let expected = format!("ChangeMessageVisibility failed ({code}): No.");
        assert_eq!(chain(results[1].as_ref().unwrap_err()), expected);
        assert_eq!(network.actual_requests().count(), tries, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_a_queue_that_cannot_be_read_has_failed_for_each_of_its_messages() {
    for body in ["null", "[]", "<html>welcome", "", "{}", r#"{"Failed":[]}"#] {
        let network = network_answering([(200, body.to_owned())]);
        let aws = Aws::with(sdk_over(network));
        let letter = DeadLetter { body: "b", message_id: "m", error_type: "t", error: "e" };
        let results = aws.give_up(DEAD_LETTER_QUEUE, &[letter]).await;
        assert!(results[0].is_err(), "{body:?} says nothing about the message");
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_never_answers_is_not_waited_for() {
    let network = NeverClient::new();
    let aws = Aws::with(sdk_over(network.clone()));
    let began = tokio::time::Instant::now();
    let hidden = Hidden { receipt: "handle", for_time: Duration::from_secs(5) };
    let results = aws.hide(&queue(QUEUE), &[hidden; 25]).await;
    assert!(results.len() == 25 && results.iter().all(Result::is_err), "{results:?}");
    assert!(chain(results[24].as_ref().unwrap_err()).contains("timeout"));
    let letter = DeadLetter { body: "b", message_id: "m", error_type: "t", error: "e" };
    let results = aws.give_up(DEAD_LETTER_QUEUE, &[letter.clone(), letter]).await;
    assert!(results.len() == 2 && results.iter().all(Result::is_err), "{results:?}");
    // Calls go out at once, and each is tried again.
    assert!(network.num_calls() >= 2 * (3 + 2), "{}", network.num_calls());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nothing_to_hide_or_to_give_up_is_no_request() {
    let (network, aws) = queues_answering([]);
    assert!(aws.hide(&queue(QUEUE), &[]).await.is_empty());
    assert!(aws.give_up(DEAD_LETTER_QUEUE, &[]).await.is_empty());
    assert_eq!(network.actual_requests().count(), 0);
    // Nor is there one where the function does not know its Region.
    let mut sdk = sdk_over(network.clone()).into_builder();
    sdk.set_region(None);
    let letter = DeadLetter { body: "b", message_id: "m", error_type: "t", error: "e" };
    let results = Aws::with(sdk.build()).give_up(DEAD_LETTER_QUEUE, &[letter]).await;
    let [Err(error)] = &results[..] else { panic!("{results:?}") };
    assert_eq!(chain(error), "SendMessage failed: AWS_REGION is not set");
    assert_eq!(network.actual_requests().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn messages_are_sent_ten_a_call_and_each_has_its_own_fate() {
    let bodies: Vec<String> =
        (0..23).map(|number| format!("{{\"n\": {number}}} \u{1F980}")).collect();
    let sent = |id: &str| json!({ "Id": id, "MessageId": "m", "MD5OfMessageBody": "d" });
    let done = |ids: &[usize]| ids.iter().map(|id| sent(&id.to_string())).collect::<Vec<_>>();
    let first = json!({ "Successful": done(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), "Failed": [] });
    // In whatever order, and one of which nothing is said.
    let second = json!({
        "Successful": done(&[9, 0, 1, 2, 4, 5, 6, 8]),
        "Failed": [{ "Id": "3", "SenderFault": true, "Code": "InvalidMessageContents", "Message": "No." }],
    });
    let third = json!({ "__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "Gone." });
    let (network, aws) = queues_answering([(200, first), (200, second), (400, third)]);
    let results = aws.send(QUEUE_URL, &at_once(&bodies)).await;
    assert_eq!(results.len(), 23);
    let failed: Vec<_> = codes(&results).into_iter().map(|(place, _)| place).collect();
    assert_eq!(failed, [13, 17, 20, 21, 22]);
    let said = |place: usize| chain(results[place].as_ref().unwrap_err());
    assert_eq!(said(13), "SendMessage failed (InvalidMessageContents): No.");
    assert_eq!(said(17), "SendMessage failed: SQS's answer does not say how it went");
    assert!(
        said(20).starts_with("SendMessage failed") && said(20).ends_with("Gone."),
        "{}",
        said(20)
    );
    let call = |bodies: &[String]| {
        let entries = bodies.iter().enumerate();
        let entries =
            entries.map(|(id, body)| json!({ "Id": id.to_string(), "MessageBody": body }));
        json!({ "QueueUrl": QUEUE_URL, "Entries": entries.collect::<Vec<_>>() })
    };
    assert_eq!(
        asked(&network, "SendMessageBatch"),
        bodies.chunks(10).map(call).collect::<Vec<_>>()
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_sends_no_more_bytes_than_sqs_takes() {
    let answer = |ids: usize| {
        let successful: Vec<_> = (0..ids).map(|id| json!({ "Id": id.to_string() })).collect();
        (200, json!({ "Successful": successful, "Failed": [] }))
    };
    let (network, aws) = queues_answering([answer(2), answer(10), answer(2)]);
    let (large, small) = ("x".repeat(600_000), "y".to_owned());
    let bodies = [vec![small.clone(), large.clone(), large], vec![small; 11]].concat();
    let results = aws.send(QUEUE_URL, &at_once(&bodies)).await;
    assert_eq!((codes(&results), results.len()), (vec![], 14));
    let calls = asked(&network, "SendMessageBatch");
    let entries: Vec<_> =
        calls.iter().map(|call| call["Entries"].as_array().unwrap().len()).collect();
    assert_eq!(entries, [2, 10, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_message_takes_its_delay_and_its_group_along() {
    let done = json!({ "Successful": [{ "Id": "0" }, { "Id": "1" }, { "Id": "2" }], "Failed": [] });
    let (network, aws) = queues_answering([(200, done)]);
    let messages = [(0, None), (300, Some("verification")), (3600, Some("sweep"))];
    let messages = messages.map(|(seconds, group)| Outgoing {
        body: "b".to_owned(),
        delay: Duration::from_secs(seconds),
        group,
    });
    assert_eq!(codes(&aws.send(QUEUE_URL, &messages).await), []);
    let [call] = &asked(&network, "SendMessageBatch")[..] else { panic!("one call") };
    assert_eq!(
        call["Entries"],
        json!([
            { "Id": "0", "MessageBody": "b" },
            { "Id": "1", "MessageBody": "b", "DelaySeconds": 300, "MessageGroupId": "verification" },
            // No longer than SQS holds back.
            { "Id": "2", "MessageBody": "b", "DelaySeconds": 900, "MessageGroupId": "sweep" },
        ])
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_to_send_is_no_request_nor_is_there_one_without_a_region() {
    let (network, aws) = queues_answering([]);
    assert!(aws.send(QUEUE_URL, &[]).await.is_empty());
    let mut sdk = sdk_over(network.clone()).into_builder();
    sdk.set_region(None);
    let nowhere = Aws::with(sdk.build());
    let results = nowhere.send(QUEUE_URL, &at_once(&["a", "b"])).await;
    let said = |error: &QueueError| chain(error);
    let errors: Vec<_> = results.iter().map(|result| said(result.as_ref().unwrap_err())).collect();
    assert_eq!(errors, ["SendMessage failed: AWS_REGION is not set"; 2]);
    let results = nowhere.tell("a name", &[notice(0)]).await;
    assert_eq!(
        said(results[0].as_ref().unwrap_err()),
        "PutEvents failed: the bus's ARN names no Region, and AWS_REGION is not set"
    );
    assert!(aws.tell(BUS, &[]).await.is_empty());
    assert_eq!(network.actual_requests().count(), 0);
}

// ---- EventBridge ----------------------------------------------------------------------------------------------------

const BUS: &str = "arn:aws:events:us-east-1:123456789012:event-bus/listeners";

fn notice(number: usize) -> Notice {
    let kind = Kind::ALL[number % Kind::ALL.len()];
    Notice { kind, detail: json!({ "version": "1", "number": number }).to_string() }
}

#[tokio::test(start_paused = true)]
async fn events_are_put_ten_a_call_and_each_has_its_own_fate() {
    let notices: Vec<_> = (0..12).map(notice).collect();
    let taken = |number: usize| json!({ "EventId": format!("event-{number}") });
    let mut first: Vec<_> = (0..10).map(taken).collect();
    first[4] = json!({ "ErrorCode": "ThrottlingException", "ErrorMessage": "Too many." });
    first[7] = json!({ "ErrorCode": "InternalFailure" });
    let first = json!({ "FailedEntryCount": 2, "Entries": first });
    // An answer that is silent about the last.
    let second = json!({ "FailedEntryCount": 0, "Entries": [taken(10)] });
    let (network, aws) = queues_answering([(200, first), (200, second)]);
    let results = aws.tell(BUS, &notices).await;
    assert_eq!(results.len(), 12);
    assert_eq!(
        codes(&results),
        [
            (4, "ThrottlingException".to_owned()),
            (7, "InternalFailure".to_owned()),
            (11, String::new())
        ]
    );
    let said = |place: usize| chain(results[place].as_ref().unwrap_err());
    assert_eq!(said(4), "PutEvents failed (ThrottlingException): Too many.");
    assert_eq!(said(7), "PutEvents failed (InternalFailure): EventBridge sent no message");
    assert_eq!(said(11), "PutEvents failed: the answer does not say how it went");

    let requests: Vec<_> = network.actual_requests().collect();
    assert_eq!(requests.len(), 2);
    let types = [
        "Instance Profile Changed",
        "Instance Profile Blocked",
        "Instance Profile Flapping",
        "Sweep Completed",
    ];
    for (request, numbers) in requests.iter().zip([0..10, 10..12]) {
        assert_eq!(request.method(), "POST");
        let header = |name: &str| request.headers().get(name).unwrap();
        assert_eq!(header("x-amz-target"), "AWSEvents.PutEvents");
        assert_eq!(header("content-type"), "application/x-amz-json-1.1");
        assert!(header("authorization").contains("/us-east-1/events/aws4_request"));
        let entries = numbers.map(|number: usize| {
            json!({
                "Source": "auto-instance-profile", "DetailType": types[number % 4],
                "Detail": notices[number].detail, "EventBusName": BUS,
            })
        });
        let body: Value = serde_json::from_slice(request.body().bytes().unwrap()).unwrap();
        assert_eq!(body, json!({ "Entries": entries.collect::<Vec<_>>() }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_bus_is_told_in_its_own_region() {
    let taken = json!({ "FailedEntryCount": 0, "Entries": [{ "EventId": "event-0" }] });
    let (network, aws) = queues_answering([(200, taken)]);
    let bus = "arn:aws:events:eu-west-1:123456789012:event-bus/listeners";
    assert_eq!(codes(&aws.tell(bus, &[notice(0)]).await), []);
    let request = network.actual_requests().next().unwrap();
    assert!(request.uri().starts_with("https://events.eu-west-1."), "{}", request.uri());
    let signature = request.headers().get("authorization").unwrap();
    assert!(signature.contains("/eu-west-1/events/aws4_request"), "{signature}");
}

#[tokio::test(start_paused = true)]
async fn a_call_to_the_bus_that_fails_has_failed_for_each_of_its_events() {
    for (status, kind, tries) in [
        (400, "AccessDeniedException", 1),
        (400, "ThrottlingException", 3),
        (500, "InternalException", 3),
    ] {
        let answer = json!({ "__type": kind, "message": "No." }).to_string();
        let network = network_answering([(); 3].map(|()| (status, answer.clone())));
        let aws = Aws::with(sdk_over(network.clone()));
        let results = aws.tell(BUS, &[notice(0), notice(1)]).await;
        assert_eq!(codes(&results), [(0, kind.to_owned()), (1, kind.to_owned())]);
        let expected = format!("PutEvents failed ({kind}): No.");
        assert_eq!(chain(results[1].as_ref().unwrap_err()), expected);
        assert_eq!(network.actual_requests().count(), tries, "{kind}");
    }
    for body in ["null", "[]", "<html>welcome", "", "{}", r#"{"FailedEntryCount": 0}"#] {
        let aws = Aws::with(sdk_over(network_answering([(200, body.to_owned())])));
        let results = aws.tell(BUS, &[notice(0)]).await;
        assert!(results.len() == 1 && results[0].is_err(), "{body:?} says nothing about the event");
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_or_a_bus_that_never_answers_is_not_waited_for() {
    let network = NeverClient::new();
    let aws = Aws::with(sdk_over(network.clone()));
    let began = tokio::time::Instant::now();
    let notices: Vec<_> = (0..25).map(notice).collect();
    let results = aws.tell(BUS, &notices).await;
    assert!(results.len() == 25 && results.iter().all(Result::is_err), "{results:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // A sweep's page can be a hundred calls, eight at a time.
    let began = tokio::time::Instant::now();
    let results = aws.send(QUEUE_URL, &at_once(&["body"; 160])).await;
    assert!(results.len() == 160 && results.iter().all(Result::is_err));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

/// Queues that are given these answers in turn, and the network that keeps what it was asked.
fn queues_answering<const N: usize>(answers: [(u16, Value); N]) -> (StaticReplayClient, Aws) {
    let network = network_answering(answers.map(|(status, body)| (status, body.to_string())));
    (network.clone(), Aws::with(sdk_over(network)))
}

/// Messages that are to be seen at once.
fn at_once(bodies: &[impl AsRef<str>]) -> Vec<Outgoing> {
    bodies.iter().map(|body| Outgoing::at_once(body.as_ref().to_owned())).collect()
}

/// What was asked of SQS, in its own protocol.
fn asked(network: &StaticReplayClient, action: &str) -> Vec<Value> {
    let bodies = network.actual_requests().map(|request| {
        assert_eq!(request.method(), "POST");
        let header = |name: &str| request.headers().get(name).unwrap().to_owned();
        assert_eq!(header("content-type"), "application/x-amz-json-1.0");
        assert_eq!(header("x-amz-target"), format!("AmazonSQS.{action}"));
        serde_json::from_slice(request.body().bytes().unwrap()).unwrap()
    });
    bodies.collect()
}

/// The places of the messages that a call failed for, and why.
fn codes(results: &[Result<(), QueueError>]) -> Vec<(usize, String)> {
    let failed = results.iter().enumerate().filter_map(|(place, result)| {
        result.as_ref().err().map(|error| (place, error.code.clone().unwrap_or_default()))
    });
    failed.collect()
}

fn queue(arn: &str) -> QueueArn {
    QueueArn::parse(arn).unwrap()
}

// ---- What AWS's words must not bring along -----------------------------------------------------------------------------

/// A session's credentials, of which nothing may come back.
const KEY_ID: &str = "ASIAIOSFODNN7EXAMPLE";
const TOKEN: &str = "no-token-begins-so/but+this+one==";

/// A request as services and proxies quote it, in the words that they have for that.
fn quotations() -> Vec<String> {
    let header = format!(
        "AWS4-HMAC-SHA256 Credential={KEY_ID}/20261102/us-east-1/sqs/aws4_request, SignedHeaders=host, \
         Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    );
    vec![
        format!(
            "The request signature we calculated does not match the signature you provided.\n\nThe Canonical String \
             for this request should have been\n'POST\n/\n\nhost:sqs.us-east-1.amazonaws.com\n\
             x-amz-security-token:{TOKEN}\n'\n\nThe String-to-Sign should have been\n'{header}'"
        ),
        format!("'{KEY_ID}' is no key=value pair in Authorization header: '{header}'"),
        format!("the request\nauthorization: {header}\nX-Amz-Security-Token: {TOKEN}\nwas refused"),
        format!("the token {TOKEN} of {KEY_ID} has expired\r\nERROR forged\u{2028}ERROR forged"),
    ]
}

fn assert_shows_nothing(error: &(impl Error + 'static), code: Option<&str>) {
    for text in [chain(error), format!("{error:?}"), code.unwrap_or_default().to_owned()] {
        for secret in [TOKEN, KEY_ID, "5d672d79c15b", "AWS4-HMAC", "host:sqs"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert!(!text.contains(|c: char| c.is_control() || c == '\u{2028}'), "{text:?}");
    }
}

/// As [`sdk_over`], with a session's credentials.
fn sdk_of_a_session(network: impl HttpClient + 'static) -> SdkConfig {
    let credentials =
        Credentials::new(KEY_ID, "a-secret-of-nobody", Some(TOKEN.to_owned()), None, "test");
    let mut sdk = sdk_over(network).into_builder();
    sdk.set_credentials_provider(Some(SharedCredentialsProvider::new(credentials)));
    sdk.build()
}

/// Codes under which requests have been quoted, and one that nobody has seen yet.
const QUOTING_CODES: [&str; 6] = [
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "IncompleteSignature",
    "UnauthorizedOperation",
    "AccessDeniedException",
    "SomethingNew",
];

#[tokio::test(start_paused = true)]
async fn no_error_of_ec2_or_iam_quotes_a_request() {
    let region = model::Region::parse("us-east-1").unwrap();
    for quotation in quotations() {
        for operation in Operation::ALL {
            let is_iam = operation == Operation::GetInstanceProfile;
            let refusal = if is_iam { iam_error } else { ec2_error };
            let mut answers = vec![
                (200, quotation.clone()),
                (403, format!("<html>{quotation}</html>")),
                (502, format!("<html>{quotation}</html>")),
                (400, refusal(&quotation, "No.")),
            ];
            answers.extend(QUOTING_CODES.map(|code| (403, refusal(code, &quotation))));
            for (status, body) in answers {
                let network = network_answering([(); 3].map(|()| (status, body.clone())));
                let cloud = Aws::with(sdk_of_a_session(network)).of(&region);
                let error = error_of(&cloud, operation).await;
                assert_shows_nothing(&error, error.code.as_deref());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_error_of_sqs_or_eventbridge_quotes_a_request() {
    for quotation in quotations() {
        let mut answers = vec![];
        for code in QUOTING_CODES.into_iter().chain([quotation.as_str()]) {
            let whole = json!({ "__type": code, "message": quotation, "Message": quotation });
            answers.extend([400, 403, 500].map(|status| (status, whole.to_string())));
            let entry = json!({
                "Id": "0", "Code": code, "Message": quotation, "SenderFault": true,
            });
            answers.push((200, json!({ "Successful": [], "Failed": [entry] }).to_string()));
            let entry = json!({ "ErrorCode": code, "ErrorMessage": quotation });
            answers.push((200, json!({ "FailedEntryCount": 1, "Entries": [entry] }).to_string()));
        }
        answers.extend([200, 403, 502].map(|status| (status, format!("<html>{quotation}"))));
        for (status, body) in answers {
            let network = || network_answering([(); 3].map(|()| (status, body.clone())));
            let aws = || Aws::with(sdk_of_a_session(network()));
            let hidden = Hidden { receipt: "handle", for_time: Duration::from_secs(5) };
            let letter = DeadLetter { body: "b", message_id: "m", error_type: "t", error: "e" };
            let region = model::Region::parse("us-east-1").unwrap();
            let letters = |aws: Aws| aws.letters(&region, DEAD_LETTER_QUEUE, QUEUE_URL);
            let results = [
                aws().hide(&queue(QUEUE), &[hidden]).await,
                aws().give_up(DEAD_LETTER_QUEUE, &[letter]).await,
                aws().send(QUEUE_URL, &at_once(&["b"])).await,
                aws().tell(BUS, &[notice(0)]).await,
                letters(aws()).send_again(&["b"]).await,
                letters(aws()).remove(&["r"]).await,
            ];
            for result in results.concat() {
                let error = result.unwrap_err();
                assert_shows_nothing(&error, error.code.as_deref());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_quotes_no_request_and_has_one_line() {
    for quotation in quotations() {
        let sent = json!({ "Successful": [{ "Id": "0", "MessageId": "m" }], "Failed": [] });
        let network = network_answering([(); 1].map(|()| (200, sent.to_string())));
        let aws = Aws::with(sdk_of_a_session(network.clone()));
        let letter = DeadLetter { body: "b", message_id: "m", error_type: "t", error: &quotation };
        aws.give_up(DEAD_LETTER_QUEUE, &[letter]).await;
        let [call] = &asked(&network, "SendMessageBatch")[..] else { panic!("one call") };
        let text = call["Entries"][0]["MessageAttributes"]["Error"]["StringValue"].as_str();
        let text = text.unwrap();
        for secret in [KEY_ID, "5d672d79c15b", "AWS4-HMAC", "host:sqs", "\n"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

// ---- Helpers ---------------------------------------------------------------------------------------------------------

impl Answer {
    fn body(&self) -> String {
        match self.to {
            Operation::GetInstanceProfile => iam_error(self.code, self.message),
            Operation::DescribeInstances
            | Operation::DescribeIamInstanceProfileAssociations
            | Operation::DescribeTags
            | Operation::AssociateIamInstanceProfile
            | Operation::ReplaceIamInstanceProfileAssociation
            | Operation::DisassociateIamInstanceProfile => ec2_error(self.code, self.message),
        }
    }

    /// A rule that answers this call so, however often it is made.
    fn rule(&self) -> Rule {
        use aws_sdk_ec2::Client as Ec2;
        // Each call's builder is of a type of its own.
        macro_rules! always {
            ($call:expr) => {
                mock!($call).sequence().http_status(self.status, Some(self.body())).times(9).build()
            };
        }
        match self.to {
            Operation::DescribeInstances => always!(Ec2::describe_instances),
            Operation::DescribeIamInstanceProfileAssociations => {
                always!(Ec2::describe_iam_instance_profile_associations)
            }
            Operation::DescribeTags => always!(Ec2::describe_tags),
            Operation::GetInstanceProfile => always!(aws_sdk_iam::Client::get_instance_profile),
            Operation::AssociateIamInstanceProfile => always!(Ec2::associate_iam_instance_profile),
            Operation::ReplaceIamInstanceProfileAssociation => {
                always!(Ec2::replace_iam_instance_profile_association)
            }
            Operation::DisassociateIamInstanceProfile => {
                always!(Ec2::disassociate_iam_instance_profile)
            }
        }
    }
}

async fn error_of(cloud: &AwsCloud, operation: Operation) -> CloudError {
    match operation {
        Operation::DescribeInstances => cloud.instances(&ids(&[ID])).await.unwrap_err(),
        Operation::DescribeIamInstanceProfileAssociations => {
            cloud.associations(&ids(&[ID])).await.unwrap_err()
        }
        Operation::DescribeTags => cloud.tags(&ids(&[ID])).await.unwrap_err(),
        Operation::GetInstanceProfile => cloud.profile(&name("web")).await.unwrap_err(),
        Operation::AssociateIamInstanceProfile => cloud.associate(&id(ID), ARN).await.unwrap_err(),
        Operation::ReplaceIamInstanceProfileAssociation => {
            cloud.replace(&row_id(ROW), ARN).await.unwrap_err()
        }
        Operation::DisassociateIamInstanceProfile => {
            cloud.disassociate(&row_id(ROW)).await.unwrap_err()
        }
    }
}

/// What the shipped clients are configured with, network and credentials apart.
fn sdk_over(network: impl HttpClient + 'static) -> SdkConfig {
    let credentials = Credentials::new("AKIAIOSFODNN7EXAMPLE", "secret", None, None, "test");
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(2))
        .operation_attempt_timeout(Duration::from_secs(5))
        .operation_timeout(Duration::from_secs(12))
        .build();
    let retries = RetryConfig::standard()
        .with_max_attempts(3)
        .with_initial_backoff(Duration::from_millis(300));
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .timeout_config(timeouts)
        .retry_config(retries)
        .http_client(network)
        .build()
}

fn cloud_over(sdk: &SdkConfig) -> AwsCloud {
    AwsCloud::new(aws_sdk_ec2::Client::new(sdk), aws_sdk_iam::Client::new(sdk))
}

/// A cloud whose answers come from one rule.
fn mocked(rule: &Rule) -> AwsCloud {
    let sdk = sdk_over(create_mock_http_client());
    let interceptor = || MockResponseInterceptor::new().with_rule(rule);
    let ec2 = aws_sdk_ec2::config::Builder::from(&sdk).interceptor(interceptor()).build();
    let iam = aws_sdk_iam::config::Builder::from(&sdk).interceptor(interceptor()).build();
    AwsCloud::new(aws_sdk_ec2::Client::from_conf(ec2), aws_sdk_iam::Client::from_conf(iam))
}

/// A cloud that is given these answers in turn, and the network that keeps what it was asked.
fn replaying<const N: usize>(answers: [(u16, String); N]) -> (AwsCloud, StaticReplayClient) {
    let network = network_answering(answers);
    (cloud_over(&sdk_over(network.clone())), network)
}

/// A network that gives these answers in turn.
fn network_answering<const N: usize>(answers: [(u16, String); N]) -> StaticReplayClient {
    network_with_header(answers.into(), None)
}

/// As [`network_answering`], with the error's code in the header that SQS has for it.
fn network_with_header(answers: Vec<(u16, String)>, code: Option<&str>) -> StaticReplayClient {
    let events = answers.into_iter().map(|(status, body)| {
        let request = http::Request::builder().body(SdkBody::empty()).unwrap();
        let mut response = http::Response::builder().status(status);
        if let Some(code) = code {
            response = response.header("x-amzn-query-error", code);
        }
        ReplayEvent::new(request, response.body(SdkBody::from(body)).unwrap())
    });
    StaticReplayClient::new(events.collect())
}

/// The parameters of each request that went out.
fn sent(network: &StaticReplayClient) -> Vec<BTreeMap<String, String>> {
    network
        .actual_requests()
        .map(|request| {
            assert_eq!(request.method(), "POST");
            form_urlencoded::parse(request.body().bytes().unwrap()).into_owned().collect()
        })
        .collect()
}

fn request(parameters: &[(&str, &str)]) -> BTreeMap<String, String> {
    parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A read by the filter `instance-id`.
fn filtered_request(action: &str, ids: &[&str]) -> BTreeMap<String, String> {
    let mut parameters = request(&[
        ("Action", action),
        ("Version", "2016-11-15"),
        ("MaxResults", "1000"),
        ("Filter.1.Name", "instance-id"),
    ]);
    parameters.extend(
        ids.iter().zip(1..).map(|(id, n)| (format!("Filter.1.Value.{n}"), (*id).to_owned())),
    );
    parameters
}

fn assert_no_link_repeats_the_next(error: &CloudError) {
    let mut link: &dyn Error = error;
    while let Some(next) = link.source() {
        let (this, below) = (link.to_string(), next.to_string());
        assert!(below.is_empty() || !this.contains(&below), "{this:?} repeats {below:?}");
        link = next;
    }
}

fn ec2_error(code: &str, message: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code><Message>{message}\
         </Message></Error></Errors><RequestID>ea966190-f9aa-478e-9ede-example00001</RequestID></Response>"
    )
}

fn iam_error(code: &str, message: &str) -> String {
    format!(
        "<ErrorResponse xmlns=\"https://iam.amazonaws.com/doc/2010-05-08/\">\n  <Error>\n    <Type>Sender</Type>\n    \
         <Code>{code}</Code>\n    <Message>{message}</Message>\n  </Error>\n  \
         <RequestId>7a62c49f-347e-4fc4-9331-example00001</RequestId>\n</ErrorResponse>"
    )
}

fn association_answer(action: &str, state: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
         <requestId>e10deeaf-7cda-48e7-950b-example00001</requestId><iamInstanceProfileAssociation>\
         <associationId>{ROW}</associationId><iamInstanceProfile><arn>{ARN}</arn><id>{PROFILE_ID}</id>\
         </iamInstanceProfile><instanceId>{ID}</instanceId><state>{state}</state>\
         </iamInstanceProfileAssociation></{action}Response>"
    )
}

fn association(row: &str, arn: &str, state: AssociationState, since: i64) -> Association {
    Association {
        id: row_id(row),
        instance: id(ID),
        profile_arn: arn.to_owned(),
        profile_id: Some(auto_instance_profile::model::ProfileId::parse(PROFILE_ID).unwrap()),
        state,
        since: Some(i128::from(since) * 1_000_000_000),
    }
}

fn the_filter_for(ids: &[&str]) -> Filter {
    let values = ids.iter().map(|id| (*id).to_owned()).collect();
    Filter::builder().name("instance-id").set_values(Some(values)).build()
}

fn the_arn_alone() -> IamInstanceProfileSpecification {
    IamInstanceProfileSpecification::builder().arn(ARN).build()
}

fn tags_of(instance: &Instance) -> Vec<(&str, &str)> {
    instance.tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

fn ids(texts: &[&str]) -> Vec<InstanceId> {
    texts.iter().map(|text| id(text)).collect()
}

fn id(text: &str) -> InstanceId {
    InstanceId::parse(text).unwrap()
}

fn row_id(text: &str) -> AssociationId {
    AssociationId::parse(text).unwrap()
}

fn name(text: &str) -> ProfileName {
    ProfileName::parse(text).unwrap()
}
