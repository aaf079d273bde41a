//! The usual wiring, to compare: each event invokes a function asynchronously, and the function reads, writes, and fails
//! where it is throttled for longer than the SDK tries.

use std::time::Duration;

use auto_instance_profile::cloud::Cloud;
use auto_instance_profile::model::{AssociationState, InstanceId, ProfileArn};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::dice::Dice;
use super::ec2::{Ec2, Sdk, standard};
use super::{Outcome, instance_id};

/// Lambda's pauses before the two retries of an asynchronous invocation. (Events may be 6 hours old: none is.)
const PAUSES: [Duration; 2] = [Duration::from_mins(1), Duration::from_mins(2)];
/// What Lambda's own queue adds to them, in milliseconds.
const SPREAD: std::ops::Range<u32> = 0..5_000;
const COLD_START: Duration = Duration::from_millis(300);

/// As many invocations at once as there are events.
pub async fn run(ec2: &Ec2, instances: usize, mut dice: Dice) -> Outcome {
    let sdk = Sdk { ec2: ec2.clone(), retries: standard };
    let events: Vec<_> = (0..instances)
        .map(|number| {
            let spread = [dice.time(SPREAD), dice.time(SPREAD)];
            (instance_id(number), dice.time(0..2000), spread)
        })
        .collect();
    let fates = events.into_iter().map(async |(id, arrives, spread)| {
        let mut outcome = Outcome { receives: 1, ..Outcome::default() };
        sleep(arrives).await;
        let id = InstanceId::parse(&id).unwrap();
        for (pause, spread) in PAUSES.into_iter().zip(spread) {
            if invoke(&sdk, &id, &mut outcome).await {
                return outcome;
            }
            sleep(pause + spread).await;
            outcome.receives += 1;
        }
        outcome.dead_letters += usize::from(!invoke(&sdk, &id, &mut outcome).await);
        outcome
    });
    join_all(fates).await.into_iter().fold(Outcome::default(), |sum, one| Outcome {
        dead_letters: sum.dead_letters + one.dead_letters,
        receives: sum.receives.max(one.receives),
        invocations: sum.invocations + one.invocations,
        billed: sum.billed + one.billed,
        ..sum
    })
}

/// Whether it succeeded.
async fn invoke(sdk: &Sdk, id: &InstanceId, outcome: &mut Outcome) -> bool {
    let began = Instant::now();
    sleep(COLD_START).await;
    let is_done = attach(sdk, id).await;
    outcome.invocations += 1;
    outcome.billed += began.elapsed();
    is_done
}

async fn attach(sdk: &Sdk, id: &InstanceId) -> bool {
    let ids = std::slice::from_ref(id);
    let Ok(_) = sdk.instances(ids).await else { return false };
    let Ok(rows) = sdk.associations(ids).await else { return false };
    if rows.iter().any(|row| row.state != AssociationState::Disassociating) {
        return true;
    }
    let web = ProfileArn::parse("arn:aws:iam::123456789012:instance-profile/web").unwrap();
    sdk.associate(id, &web.to_string()).await.is_ok()
}
