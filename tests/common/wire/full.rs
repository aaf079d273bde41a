//! What else EC2 says about an instance: nothing that the function reads, and by far the most of an answer.

use std::fmt::Write as _;

/// As a real instance has it: a network interface, three volumes, nine tags and what lies between. A few kilobytes.
pub fn rest(id: &str) -> String {
    let hex = &id[2..];
    let mut volumes = String::new();
    for (device, number) in [("xvda", 1), ("sdf", 2), ("sdg", 3)] {
        write!(
            volumes,
            "<item><deviceName>/dev/{device}</deviceName><ebs><volumeId>vol-{number}{hex}</volumeId>\
             <status>attached</status><attachTime>2026-11-02T09:14:01.000Z</attachTime>\
             <deleteOnTermination>true</deleteOnTermination><ebsCardIndex>0</ebsCardIndex></ebs></item>"
        )
        .unwrap();
    }
    let groups = "<groupSet><item><groupId>sg-0123456789abcdef0</groupId><groupName>web</groupName></item>\
                  <item><groupId>sg-0fedcba9876543210</groupId><groupName>everybody</groupName></item></groupSet>";
    format!(
        "<privateDnsName>ip-10-0-0-10.ec2.internal</privateDnsName><dnsName/><amiLaunchIndex>0</amiLaunchIndex>\
         <productCodes/><placement><availabilityZone>us-east-1a</availabilityZone>\
         <availabilityZoneId>use1-az1</availabilityZoneId><groupName/><tenancy>default</tenancy></placement>\
         <monitoring><state>disabled</state></monitoring><privateIpAddress>10.0.0.10</privateIpAddress>\
         <sourceDestCheck>true</sourceDestCheck>{groups}<architecture>x86_64</architecture>\
         <rootDeviceType>ebs</rootDeviceType><rootDeviceName>/dev/xvda</rootDeviceName>\
         <blockDeviceMapping>{volumes}</blockDeviceMapping><virtualizationType>hvm</virtualizationType>\
         <clientToken>fleet-00000000-0000-4000-8000-{hex:0>12}</clientToken><hypervisor>xen</hypervisor>\
         <networkInterfaceSet><item><networkInterfaceId>eni-{hex}</networkInterfaceId>\
         <subnetId>subnet-0123456789abcdef0</subnetId><vpcId>vpc-0123456789abcdef0</vpcId><description/>\
         <ownerId>123456789012</ownerId><status>in-use</status><macAddress>02:00:00:00:00:01</macAddress>\
         <privateIpAddress>10.0.0.10</privateIpAddress><privateDnsName>ip-10-0-0-10.ec2.internal</privateDnsName>\
         <sourceDestCheck>true</sourceDestCheck>{groups}<attachment><attachmentId>eni-attach-{hex}</attachmentId>\
         <deviceIndex>0</deviceIndex><status>attached</status><attachTime>2026-11-02T09:14:00.000Z</attachTime>\
         <deleteOnTermination>true</deleteOnTermination><networkCardIndex>0</networkCardIndex></attachment>\
         <privateIpAddressesSet><item><privateIpAddress>10.0.0.10</privateIpAddress>\
         <privateDnsName>ip-10-0-0-10.ec2.internal</privateDnsName><primary>true</primary></item>\
         </privateIpAddressesSet><ipv6AddressesSet/><interfaceType>interface</interfaceType></item>\
         </networkInterfaceSet><ebsOptimized>true</ebsOptimized><enaSupport>true</enaSupport>\
         <cpuOptions><coreCount>1</coreCount><threadsPerCore>2</threadsPerCore></cpuOptions>\
         <capacityReservationSpecification><capacityReservationPreference>open</capacityReservationPreference>\
         </capacityReservationSpecification><hibernationOptions><configured>false</configured></hibernationOptions>\
         <metadataOptions><state>applied</state><httpTokens>required</httpTokens>\
         <httpPutResponseHopLimit>2</httpPutResponseHopLimit><httpEndpoint>enabled</httpEndpoint>\
         <httpProtocolIpv6>disabled</httpProtocolIpv6><instanceMetadataTags>disabled</instanceMetadataTags>\
         </metadataOptions><enclaveOptions><enabled>false</enabled></enclaveOptions>\
         <bootMode>uefi-preferred</bootMode><platformDetails>Linux/UNIX</platformDetails>\
         <usageOperation>RunInstances</usageOperation>\
         <usageOperationUpdateTime>2026-11-02T09:14:00.000Z</usageOperationUpdateTime>\
         <privateDnsNameOptions><hostnameType>ip-name</hostnameType>\
         <enableResourceNameDnsARecord>false</enableResourceNameDnsARecord></privateDnsNameOptions>\
         <maintenanceOptions><autoRecovery>default</autoRecovery></maintenanceOptions>\
         <currentInstanceBootMode>uefi</currentInstanceBootMode>"
    )
}

/// Tags beside the ones that a test is about.
pub const TAGS: [(&str, &str); 9] = [
    ("Name", "web-production-frontend-0001"),
    ("Environment", "production"),
    ("Team", "platform-engineering"),
    ("CostCenter", "CC-4711-0815"),
    ("aws:autoscaling:groupName", "web-production-frontend-20261102091400"),
    ("aws:ec2launchtemplate:id", "lt-0123456789abcdef0"),
    ("aws:ec2launchtemplate:version", "42"),
    ("backup", "daily-at-three-keep-for-thirty-days"),
    ("managed-by", "a-pipeline-of-the-platform-team"),
];

/// An instance with so many addresses that it takes at least so many bytes.
pub fn heavy(instance: &str, bytes: usize) -> String {
    const ADDRESS: &str =
        "<item><ipv6Address>2001:0db8:0000:0000:0000:0000:0000:0001</ipv6Address></item>";
    let addresses = ADDRESS.repeat(bytes.saturating_sub(instance.len()).div_ceil(ADDRESS.len()));
    let set = format!("<ipv6AddressesSet>{addresses}</ipv6AddressesSet>");
    instance.replacen("<ipv6AddressesSet/>", &set, 1)
}
