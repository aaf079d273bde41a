//! What a function does before its first event, and what the first event is spared by it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use crate::common::wire::{Fault, Request, Wire};
use crate::common::world::World;
use crate::{
    ASSOCIATE, ASSOCIATIONS, GET_PROFILE, INSTANCES, ONE, TWO, a_world, associated, batch,
    batch_failures, function_allowing, function_with, policy_file, row, rows, running, timed,
};

/// The id that is nobody's.
const NOBODY: &str = "i-00000000000000000";
/// All that a function asks for while it starts.
const ASKED_AT_START: [&str; 3] = [INSTANCES, ASSOCIATIONS, GET_PROFILE];

#[tokio::test]
async fn a_start_asks_ec2_about_nobody_and_iam_for_the_profiles_that_are_known_by_name() {
    let wire = slow_at_start(Wire::serve(a_world().running(ONE, Some("web"), None)).await);
    let mut function = function_allowing("old,web,db-?", &wire).await;
    let asked = wire.requests_at_start();
    assert_eq!(actions(&asked), [ASSOCIATIONS, INSTANCES, GET_PROFILE, GET_PROFILE]);
    assert!(asked.iter().all(|request| request.region == "us-east-1"), "signed: {asked:#?}");
    for request in of(&asked, INSTANCES).chain(of(&asked, ASSOCIATIONS)) {
        assert_eq!(request.parameters["Filter.1.Value.1"], NOBODY);
        assert!(!request.parameters.contains_key("Filter.1.Value.2"));
    }
    assert_eq!(names(&asked), ["old", "web"]);
    // Each is answered half a second later, so that none could use another's connection unless it waited for it.
    let connections: BTreeSet<_> = asked.iter().map(|request| request.connection).collect();
    assert_eq!(connections.len(), 4, "at once: {asked:#?}");

    // The event is left with two reads and one write.
    let report = function.invoke(running(ONE)).await.unwrap();
    assert_eq!(row(&report), ("associate", "associated"));
    assert_eq!(wire.writes(), [associated(ONE, "web")]);
    assert_eq!(actions(&wire.requests()), [ASSOCIATE, ASSOCIATIONS, INSTANCES]);
    let log = function.stop().await;
    assert!(!log.iter().any(|line| line.contains("WARN")), "{log:#?}");
}

#[tokio::test]
async fn an_event_needs_no_connection_that_the_start_did_not_open() {
    let wire = slow_at_start(Wire::serve(a_world().running(ONE, Some("web"), None)).await);
    let mut function = function_allowing("web", &wire).await;
    let opened = wire.connections();
    assert_eq!(opened, 3);
    assert_eq!(row(&function.invoke(running(ONE)).await.unwrap()), ("associate", "associated"));
    assert_eq!(wire.connections(), opened);
    // Nor do the next ones.
    assert_eq!(row(&function.invoke(running(ONE)).await.unwrap()), ("keep", "kept"));
    assert_eq!(wire.connections(), opened);
}

#[tokio::test]
async fn where_no_name_is_known_iam_is_asked_once_by_nobody_and_the_connection_is_kept() {
    let wire = slow_at_start(Wire::serve(a_world().running(ONE, Some("web"), None)).await);
    // By another name, so that IAM's connection is nobody else's.
    let iam = wire.endpoint().replace("127.0.0.1", "localhost");
    let settings = [("ALLOWED_PROFILES", "we*"), ("AWS_ENDPOINT_URL_IAM", iam.as_str())];
    let mut function = function_with(&wire, &settings).await;
    let asked = wire.requests_at_start();
    assert_eq!(actions(&asked), [ASSOCIATIONS, INSTANCES, GET_PROFILE]);
    let unsigned: Vec<_> = asked.iter().filter(|request| request.region.is_empty()).collect();
    let [opening] = unsigned[..] else { panic!("one request of nobody's: {asked:#?}") };
    assert_eq!(opening.action, GET_PROFILE);
    let reads: BTreeSet<_> = asked.iter().map(|request| request.connection).collect();
    assert_eq!(reads.len(), 3, "each has its own: {asked:#?}");

    let opened = wire.connections();
    assert_eq!(row(&function.invoke(running(ONE)).await.unwrap()), ("associate", "associated"));
    let [signed] = &wire.requests_of(GET_PROFILE)[..] else { panic!("asked once, as somebody") };
    assert_eq!((signed.region.as_str(), signed.connection), ("us-east-1", opening.connection));
    assert_eq!(wire.connections(), opened);
    // That IAM refused nobody is what was expected.
    let log = function.stop().await;
    assert!(!log.iter().any(|line| line.contains("WARN")), "{log:#?}");
}

#[tokio::test]
async fn profiles_that_a_policy_file_names_are_fetched_whatever_the_tags_may_say() {
    let policy =
        policy_file("literal", "version: 1\nrules:\n  - { name: all, match: {}, profile: web }\n");
    let wire = Wire::serve(a_world().running(ONE, None, None)).await;
    let settings = [("ALLOWED_PROFILES", "w*,old"), ("POLICY_FILE", policy.as_str())];
    let mut function = function_with(&wire, &settings).await;
    assert_eq!(names(&wire.requests_at_start()), ["web"]);
    assert_eq!(row(&function.invoke(running(ONE)).await.unwrap()), ("associate", "associated"));
    assert_eq!(wire.requests_of(GET_PROFILE).len(), 0);
}

#[tokio::test]
async fn a_long_list_of_names_is_not_fetched_to_its_end() {
    let names: Vec<String> = (0..40).map(|number| format!("p{number:02}")).collect();
    let world = names.iter().fold(World::new(), |world, name| world.profile(name));
    let wire = Wire::serve(world.running(ONE, Some("p39"), None)).await;
    let mut function = function_allowing(&names.join(","), &wire).await;
    let asked = wire.requests_at_start();
    assert_eq!(of(&asked, GET_PROFILE).count(), 16);
    assert!(asked.iter().all(|request| !request.region.is_empty()));
    assert_eq!(row(&function.invoke(running(ONE)).await.unwrap()), ("associate", "associated"));
    assert_eq!(wire.requests_of(GET_PROFILE).len(), 1);
}

#[tokio::test]
async fn a_profile_that_is_made_after_the_start_is_found() {
    let wire = Wire::serve(World::new().running(ONE, Some("web"), None)).await;
    let mut function = function_allowing("web", &wire).await;
    assert_eq!(names(&wire.requests_at_start()), ["web"]);
    wire.world().make_profile("/", "web", Some("ec2.amazonaws.com"));
    assert_eq!(row(&function.invoke(running(ONE)).await.unwrap()), ("associate", "associated"));
    assert_eq!(wire.requests_of(GET_PROFILE).len(), 1);
    let log = function.stop().await;
    assert!(!log.iter().any(|line| line.contains("WARN")), "{log:#?}");
}

#[tokio::test]
async fn a_start_ends_though_nobody_answers_and_the_first_event_does_what_it_was_to_be_spared() {
    let rows = [("web,old", 2), ("we*", 1)];
    join_all(rows.map(async |(patterns, profiles_at_start)| {
        let wire = Wire::serve(a_world().running(ONE, Some("web"), None))
            .await
            .at_start(INSTANCES, Fault::Hangs)
            .at_start(ASSOCIATIONS, Fault::Hangs)
            .at_start(GET_PROFILE, Fault::Hangs);
        let (mut function, took) = timed(function_allowing(patterns, &wire)).await;
        // Lambda allows a start 10 s, and begins it anew where it takes longer.
        let expected = Duration::from_secs(3)..Duration::from_secs(9);
        assert!(expected.contains(&took), "{took:?}");
        assert_eq!(of(&wire.requests_at_start(), GET_PROFILE).count(), profiles_at_start);

        let report = function.invoke(running(ONE)).await.unwrap();
        assert_eq!(row(&report), ("associate", "associated"));
        assert_eq!(wire.writes(), [associated(ONE, "web")]);
        assert_eq!(
            actions(&wire.requests()),
            [ASSOCIATE, ASSOCIATIONS, INSTANCES, GET_PROFILE],
            "each once, and answered at once"
        );
        let log = function.stop().await;
        let warnings: Vec<_> = log.iter().filter(|line| line.contains("WARN")).collect();
        let [warning] = warnings[..] else { panic!("one line says it: {log:#?}") };
        assert!(warning.contains("not ready for the first event"), "{warning}");
        assert!(warning.contains("did not answer within 3 s"), "{warning}");
    }))
    .await;
}

#[tokio::test]
async fn a_start_that_is_refused_is_warned_about_and_the_first_event_is_dealt_with() {
    for (status, ec2_code, iam_code) in
        [(500, "InternalError", "ServiceFailure"), (403, "UnauthorizedOperation", "AccessDenied")]
    {
        let says_no = "Not while you start";
        let wire = Wire::serve(a_world().running(ONE, Some("web"), None))
            .await
            .at_start(INSTANCES, Fault::Refuses(status, ec2_code, says_no))
            .at_start(ASSOCIATIONS, Fault::Refuses(status, ec2_code, says_no))
            .at_start(GET_PROFILE, Fault::Refuses(status, iam_code, says_no));
        let mut function = function_allowing("web", &wire).await;
        let report = function.invoke(running(ONE)).await.unwrap();
        assert_eq!(row(&report), ("associate", "associated"), "{status}");
        assert_eq!(wire.requests_of(GET_PROFILE).len(), 1, "a failure is nobody's answer");
        let log = function.stop().await;
        let warnings: Vec<_> = log.iter().filter(|line| line.contains("WARN")).collect();
        let [ec2, iam] = warnings[..] else { panic!("a line for EC2, and one for IAM: {log:#?}") };
        for (line, code) in [(ec2, ec2_code), (iam, iam_code)] {
            let parts = ["not ready for the first event", code, says_no];
            assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        }
        assert!(iam.contains(GET_PROFILE), "{iam}");
    }
}

#[tokio::test]
async fn a_part_of_a_start_that_fails_spoils_nothing_of_the_rest() {
    let wire = Wire::serve(a_world().running(ONE, Some("web"), None))
        .await
        .at_start(INSTANCES, Fault::BreaksBefore);
    let mut function = function_allowing("web", &wire).await;
    assert_eq!(row(&function.invoke(running(ONE)).await.unwrap()), ("associate", "associated"));
    assert_eq!(actions(&wire.requests()), [ASSOCIATE, ASSOCIATIONS, INSTANCES]);
    let log = function.stop().await;
    assert_eq!(log.iter().filter(|line| line.contains("WARN")).count(), 1, "{log:#?}");
}

#[tokio::test]
async fn over_tls_the_first_event_needs_no_handshake() {
    let world = a_world().running(ONE, Some("web"), None).running(TWO, Some("web"), Some("old"));
    let wire = slow_at_start(Wire::serve_tls(world).await);
    let settings = [("ALLOWED_PROFILES", "web"), ("SSL_CERT_FILE", wire.roots())];
    let mut function = function_with(&wire, &settings).await;
    let opened = wire.connections();
    assert_eq!(opened, 3);
    let report = function.invoke(json!({"instance-ids": [ONE, TWO]})).await.unwrap();
    assert_eq!(rows(&report), [("associate", "associated"), ("replace", "replaced")]);
    assert_eq!(wire.requests_of(GET_PROFILE).len(), 0);
    let messages = batch(&[("m1", running(ONE)), ("m2", running(TWO))]);
    assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), [""; 0]);
    assert_eq!(wire.connections(), opened);
    assert_eq!(wire.world().attached_to(ONE).as_deref(), Some("web"));
    assert_eq!(wire.world().attached_to(TWO).as_deref(), Some("web"));
}

#[tokio::test]
async fn over_tls_nobody_is_trusted_who_is_not_vouched_for() {
    let wire = Wire::serve_tls(a_world().running(ONE, Some("web"), None)).await;
    let another = Wire::serve_tls(World::new()).await;
    let settings = [("ALLOWED_PROFILES", "web"), ("SSL_CERT_FILE", another.roots())];
    let mut function = function_with(&wire, &settings).await;
    let failure = function.invoke(running(ONE)).await.unwrap_err();
    assert_eq!(failure.error_type, "Transient", "{failure:?}");
    assert!(failure.error_message.contains("certificate"), "{failure:?}");
    assert_eq!((wire.requests_at_start().len(), wire.requests().len()), (0, 0));
}

/// Each request of a start is under way for so long that the others must go beside it.
fn slow_at_start(wire: Wire) -> Wire {
    let delay = Fault::Delays(Duration::from_millis(500));
    ASKED_AT_START.iter().fold(wire, |wire, action| wire.at_start(action, delay.clone()))
}

fn of<'a>(requests: &'a [Request], action: &'a str) -> impl Iterator<Item = &'a Request> {
    requests.iter().filter(move |request| request.action == action)
}

/// What was asked for, EC2 first, each in the order of the alphabet.
fn actions(requests: &[Request]) -> Vec<&str> {
    let mut actions: Vec<_> = requests.iter().map(|request| request.action.as_str()).collect();
    actions.sort_by_key(|action| (*action == GET_PROFILE, *action));
    actions
}

/// The profiles that were asked for by somebody.
fn names(requests: &[Request]) -> Vec<&str> {
    let signed = of(requests, GET_PROFILE).filter(|request| !request.region.is_empty());
    let mut names: Vec<_> =
        signed.map(|request| request.parameters["InstanceProfileName"].as_str()).collect();
    names.sort_unstable();
    names
}
