//! A plain function with AWS's SDK: clients from the environment, one call after the other. It attaches the instance
//! profile that an instance's tag names, for state changes that come through a queue.
//!
//! It is here to be measured beside the function of this repository (`make bench-start`), not to be deployed: it checks no
//! allow-list, replaces nothing, and takes every error to be worth another try.

use aws_lambda_events::event::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use aws_sdk_ec2::types::{
    Filter, IamInstanceProfileAssociationState, IamInstanceProfileSpecification, InstanceStateName,
};
use lambda_runtime::{Error, LambdaEvent, run, service_fn, tracing};
use serde::Deserialize;

/// The part of an EC2 state change that matters here.
#[derive(Deserialize)]
struct StateChange {
    detail: Detail,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Detail {
    instance_id: String,
}

struct Clients {
    ec2: aws_sdk_ec2::Client,
    iam: aws_sdk_iam::Client,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    let config = aws_config::load_from_env().await;
    let clients =
        &Clients { ec2: aws_sdk_ec2::Client::new(&config), iam: aws_sdk_iam::Client::new(&config) };
    run(service_fn(move |event: LambdaEvent<SqsEvent>| handle(clients, event.payload))).await
}

async fn handle(clients: &Clients, batch: SqsEvent) -> Result<SqsBatchResponse, Error> {
    let mut response = SqsBatchResponse::default();
    for message in batch.records {
        if let Err(error) = attach(clients, &message).await {
            tracing::error!("{error}");
            let mut failure = BatchItemFailure::default();
            failure.item_identifier = message.message_id.unwrap_or_default();
            response.batch_item_failures.push(failure);
        }
    }
    Ok(response)
}

async fn attach(clients: &Clients, message: &SqsMessage) -> Result<(), Error> {
    let event: StateChange = serde_json::from_str(message.body.as_deref().unwrap_or_default())?;
    let id = event.detail.instance_id;

    let found = clients.ec2.describe_instances().instance_ids(&id).send().await?;
    let instance = found
        .reservations()
        .iter()
        .flat_map(|reservation| reservation.instances())
        .next()
        .ok_or("no such instance")?;
    let running =
        instance.state().and_then(|state| state.name()) == Some(&InstanceStateName::Running);
    let tag = instance.tags().iter().find(|tag| tag.key() == Some("InstanceProfile"));
    let (true, Some(profile)) = (running, tag.and_then(|tag| tag.value())) else {
        return Ok(());
    };

    let of_instance = Filter::builder().name("instance-id").values(&id).build();
    let found = clients
        .ec2
        .describe_iam_instance_profile_associations()
        .filters(of_instance)
        .send()
        .await?;
    let attached = found.iam_instance_profile_associations().iter().any(|association| {
        matches!(
            association.state(),
            Some(
                IamInstanceProfileAssociationState::Associated
                    | IamInstanceProfileAssociationState::Associating
            )
        )
    });
    if attached {
        return Ok(());
    }

    let found = clients.iam.get_instance_profile().instance_profile_name(profile).send().await?;
    let arn = found.instance_profile().ok_or("an answer without a profile")?.arn();
    let profile = IamInstanceProfileSpecification::builder().arn(arn).build();
    clients
        .ec2
        .associate_iam_instance_profile()
        .instance_id(&id)
        .iam_instance_profile(profile)
        .send()
        .await?;
    tracing::info!(instance = id, profile = arn, "associated");
    Ok(())
}
