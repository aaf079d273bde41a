//! A fleet of running instances, each as its policy requires, as EC2 lists them.

use std::fmt::Write as _;

use bench_common::RESERVATION;

pub const ACCOUNT: &str = "123456789012";
pub const PROFILE: &str = "web";
pub const PROFILE_ID: &str = "AIPA000000000001";

/// What `DescribeInstances` says about an instance, by its number: at least so many bytes, in hundreds of addresses.
pub fn reservation(number: usize, weight: usize) -> String {
    const ADDRESS: &str =
        "<item><ipv6Address>2001:0db8:0000:0000:0000:0000:0000:0001</ipv6Address></item>";
    let plain = plain_reservation(number);
    let addresses = ADDRESS.repeat(weight.saturating_sub(plain.len()) / ADDRESS.len());
    let set = format!("<ipv6AddressesSet>{addresses}</ipv6AddressesSet>");
    plain.replacen("<ipv6AddressesSet/>", &set, 1)
}

fn plain_reservation(number: usize) -> String {
    let id = instance_id(number);
    RESERVATION
        .replace('\n', "")
        .replace("{hex}", &id[2..])
        .replace("{id}", &id)
        .replace("{account}", ACCOUNT)
        .replace("{code}", "16")
        .replace("{state}", "running")
        .replace("{tags}", &tags(number))
        .replace("<hypervisor>", &format!("{}<hypervisor>", profile()))
}

/// What `DescribeIamInstanceProfileAssociations` says about its association.
pub fn association(number: usize) -> String {
    format!(
        "<item><associationId>iip-assoc-{number:017x}</associationId>{}<instanceId>{}</instanceId>\
         <state>associated</state><timestamp>2026-11-02T09:14:22.000Z</timestamp></item>",
        profile(),
        instance_id(number)
    )
}

pub fn profile_arn() -> String {
    format!("arn:aws:iam::{ACCOUNT}:instance-profile/{PROFILE}")
}

/// Numbers begin with 1: nobody has the id of zeros.
fn instance_id(number: usize) -> String {
    format!("i-{:017x}", number + 1)
}

/// The number of the instance with this id.
pub fn number_of(id: &str) -> Option<usize> {
    usize::from_str_radix(id.strip_prefix("i-")?, 16).ok()?.checked_sub(1)
}

fn profile() -> String {
    let arn = profile_arn();
    format!("<iamInstanceProfile><arn>{arn}</arn><id>{PROFILE_ID}</id></iamInstanceProfile>")
}

/// Ten tags, as an Auto Scaling group and a company's own rules leave them.
fn tags(number: usize) -> String {
    let group = number % 50;
    let tags = [
        ("Name", format!("web-{number}")),
        ("InstanceProfile", PROFILE.to_owned()),
        ("Environment", "production".to_owned()),
        ("Application", format!("storefront-{group}")),
        ("CostCenter", "4711-retail-emea".to_owned()),
        ("Owner", "team-storefront@example.com".to_owned()),
        ("PatchGroup", "linux-wave-2".to_owned()),
        ("aws:autoscaling:groupName", format!("storefront-{group}-production")),
        ("aws:ec2launchtemplate:id", "lt-0a1b2c3d4e5f60718".to_owned()),
        ("aws:ec2launchtemplate:version", "12".to_owned()),
    ];
    let mut xml = String::new();
    for (key, value) in tags {
        // Writing to a string cannot fail.
        let _ = write!(xml, "<item><key>{key}</key><value>{value}</value></item>");
    }
    xml
}
