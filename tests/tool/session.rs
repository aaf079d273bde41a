//! How the tool comes to AWS, and how it is typed.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// An HTTP proxy: it notes what it is asked for, and brings everything to one place.
struct Proxy {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn to(wire: &Wire) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://me:secret@{}", listener.local_addr().unwrap());
        let target = wire.endpoint().split_once("://").unwrap().1.to_owned();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(client, target.clone(), Arc::clone(&noted)));
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(mut client: TcpStream, target: String, asked: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match client.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let line = text.lines().next().unwrap().to_owned();
    let is_authorised = text.contains("proxy-authorization: basic bwu6c2vjcmv0");
    asked.lock().unwrap().push(format!("{line} {is_authorised}"));
    let mut server = TcpStream::connect(target).await.unwrap();
    if line.starts_with("connect ") {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    } else {
        server.write_all(&head).await.unwrap();
    }
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

#[tokio::test]
async fn calls_go_through_the_proxy_that_is_named() {
    // A port at which nobody listens: only the proxy knows the way.
    let nowhere = "127.0.0.1:9";
    let wire = Wire::serve_tls(a_fleet()).await;
    let proxy = Proxy::to(&wire).await;
    let mut tool = plan(&wire, &[]);
    tool.env("AWS_ENDPOINT_URL", format!("https://{nowhere}"))
        .env("SSL_CERT_FILE", wire.roots())
        .env("HTTPS_PROXY", &proxy.url);
    let ran = end(tool).await;
    assert_eq!(ran.code, 2, "{}", ran.all());
    let asked = proxy.asked();
    assert!(!asked.is_empty());
    for line in &asked {
        assert_eq!(line, &format!("connect {nowhere} http/1.1 true"));
    }
    assert!(!ran.all().contains("secret"));

    let wire = Wire::serve(a_fleet()).await;
    let proxy = Proxy::to(&wire).await;
    let mut tool = plan(&wire, &[]);
    tool.env("AWS_ENDPOINT_URL", format!("http://{nowhere}")).env("http_proxy", &proxy.url);
    let ran = end(tool).await;
    assert_eq!(ran.code, 2, "{}", ran.all());
    assert!(proxy.asked()[0].starts_with(&format!("post http://{nowhere}/ http/1.1")));

    // What is exempt goes its own way; so does everything without a proxy.
    let proxy = Proxy::to(&wire).await;
    let mut tool = plan(&wire, &[]);
    tool.env("HTTP_PROXY", &proxy.url).env("NO_PROXY", "localhost,127.0.0.1");
    assert_eq!(end(tool).await.code, 2);
    assert_eq!(proxy.asked(), [""; 0]);

    let mut tool = plan(&wire, &[]);
    tool.env("HTTP_PROXY", "socks5://me:secret@127.0.0.1:9");
    insta::assert_snapshot!(end(tool).await.all(), @r"
    ! error: HTTP_PROXY names no HTTP proxy, such as http://proxy.example.com:8080, and this tool goes through no other; NO_PROXY='*' goes without one
    [exit 1]
    ");
}

#[tokio::test]
async fn either_variable_names_the_region() {
    let wire = Wire::serve(a_fleet()).await;
    for name in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
        let mut tool = plan(&wire, &["--json"]);
        tool.env_remove("AWS_REGION").env(name, "eu-west-1");
        let ran = end(tool).await;
        let plan: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(plan["region"], "eu-west-1", "{name}");
    }
}

#[tokio::test]
async fn what_the_sdk_would_not_understand_is_said() {
    let wire = Wire::serve(a_fleet()).await;
    let config = file(
        "session",
        b"[default]\nregion = us-east-1\n[profile mfa]\nrole_arn = arn:aws:iam::123456789012:role/a\n\
          source_profile = default\nmfa_serial = arn:aws:iam::123456789012:mfa/me\n\
          [profile console]\nlogin_session = arn:aws:iam::123456789012:user/me\n",
    );
    let mut all = String::new();
    for variables in [
        &[("AWS_PROFILE", "mfaa")][..],
        &[("AWS_PROFILE", "mfa")],
        &[("AWS_PROFILE", "console")],
        &[("AWS_ENDPOINT_URL", "127.0.0.1:5000")],
    ] {
        let mut tool = plan(&wire, &[]);
        for name in ["AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            tool.env_remove(name);
        }
        tool.env("AWS_CONFIG_FILE", &config).env("AWS_SHARED_CREDENTIALS_FILE", "/none");
        tool.envs(variables.iter().copied());
        let said = end(tool).await.all().replace(config.to_str().unwrap(), "CONFIG");
        writeln!(all, "{} {}\n{said}", variables[0].0, variables[0].1).unwrap();
    }
    insta::assert_snapshot!(all, @r#"
    AWS_PROFILE mfaa
    ! error: AWS_PROFILE names the profile mfaa, and there is none of that name; CONFIG and /none have console, default, mfa
    [exit 1]

    AWS_PROFILE mfa
    ! error: the profile mfa asks for a second factor (mfa_serial), which this tool cannot do; have the AWS CLI do it: eval "$(aws configure export-credentials --profile mfa --format env)"
    [exit 1]

    AWS_PROFILE console
    ! error: the profile console signs in by `aws login` (login_session), which this tool cannot do; have the AWS CLI do it: eval "$(aws configure export-credentials --profile console --format env)"
    [exit 1]

    AWS_ENDPOINT_URL 127.0.0.1:5000
    ! error: AWS_ENDPOINT_URL is "127.0.0.1:5000", and an endpoint is a URL that begins with https:// or http://, such as http://localhost:5000
    [exit 1]
    "#);
    assert_eq!(wire.requests().len(), 0);
}

#[tokio::test]
async fn tags_are_understood_as_they_are_typed() {
    let mut all = String::new();
    for tags in [
        &["--tags", "A=b,C=d=e"][..],
        &["--tags", "A=b, C=d"],
        &["--tags", "Key=A,Value=b"],
        &["--tags", "Key=A,Value=b", "--tags", "Key=C,Value=d e"],
        &["--tag", "Key=A,Value=b,c"],
        &["--tags", "Key=A,Value="],
        &["--tags", "Key=A"],
        &["--tags", "A=b,", "C=d"],
        &["--tags", "A=b,,C=d"],
        &["--tags", "Key=A,Value=b,Key=C,Value=d"],
    ] {
        let args: Vec<_> = ["explain", "policy/policy.yaml"].iter().chain(tags).copied().collect();
        let ran = run(&args).await;
        let said = ran.out.lines().find(|line| line.starts_with("tags"));
        let said = said.unwrap_or_else(|| ran.err.lines().next().unwrap());
        writeln!(all, "{tags:?}\n  {said}").unwrap();
    }
    let ran = run(&["explain", "--tags", "A=b", "C=d"]).await;
    write!(all, "{}", ran.all()).unwrap();
    insta::assert_snapshot!(all);
}

/// The examples in a command's help.
async fn examples(command: &str) -> Vec<String> {
    let help = run(&[command, "--help"]).await.out;
    let (_, examples) = help.split_once("Examples:\n").unwrap();
    let lines = examples.lines().take_while(|line| line.starts_with("  "));
    lines.map(|line| line.trim().to_owned()).collect()
}

#[tokio::test]
async fn the_examples_of_the_help_work() {
    let mut world = a_fleet();
    world.instance_mut(WRONG).tags.insert("Environment".to_owned(), "dev".to_owned());
    let world = world.running("i-0abcdef1234567890", Some("web"), Some("web"));
    let wire = Wire::serve(world).await;
    let policy = fs::read(root().join("policy/policy.yaml")).unwrap();
    let dir = file("examples", &policy).parent().unwrap().to_owned();
    let bin = Path::new(env!("CARGO_BIN_EXE_auto-instance-profile")).parent().unwrap();
    for command in ["check", "explain", "plan", "apply", "report", "replay", "completions"] {
        for example in examples(command).await {
            let example =
                example.replace("~/.config/fish/completions/", "").replace("${fpath[1]}/", "");
            // The policy of the next one must be there still.
            let example = example.replace("> policy", "> new-policy");
            let mut shell = Command::new("bash");
            let tool = at(&wire, &[]);
            shell.env_clear().current_dir(&dir).stdin(Stdio::null()).args(["-c", &example]);
            shell.envs(tool.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))));
            shell.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
            shell.env(
                "QUEUE",
                format!("{}/123456789012/auto-instance-profile-events", wire.endpoint()),
            );
            shell.env(
                "DLQ",
                format!("{}/123456789012/auto-instance-profile-dead-letters", wire.endpoint()),
            );
            let ran = end(shell).await;
            let all = ran.all();
            match command {
                // Nobody is there to say yes.
                "apply" | "replay" if !example.contains("--yes") => {
                    assert!(all.contains("needs --yes"), "{example}\n{all}");
                }
                // The wire's dead letters are not for reading.
                "replay" => assert!(all.contains("the dead letters cannot be read"), "{all}"),
                "plan" | "report" => assert_eq!(ran.code, 2, "{example}\n{all}"),
                _ => assert_eq!(ran.code, 0, "{example}\n{all}"),
            }
        }
    }
}

#[tokio::test]
async fn a_page_can_go_to_standard_output() {
    let wire = Wire::serve(a_fleet()).await;
    let args = ["report", "policy/policy.yaml", "--allowed", ALLOWED, "--html", "-"];
    let ran = end(at(&wire, &args)).await;
    assert_eq!((ran.code, ran.err.as_str()), (2, ""));
    assert!(ran.out.starts_with("<!doctype html>"), "{}", &ran.out[..80]);
    assert!(!root().join("-").exists());
    let mut both = at(&wire, &args);
    both.arg("--json");
    let ran = end(both).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("--html - and --json would both be written"), "{}", ran.err);
}
