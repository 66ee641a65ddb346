//! `lapwing config`

use super::{file, lapwing, output, output_of};

const GOOD: &str = "
[broker]
url = 'amqp://me:s3cret@rabbit/%2f'
[consumers.orders]
queue = 'orders'
[consumers.orders.handler]
kind = 'http'
url = 'http://u:s3cret@localhost/orders?token=s3cret'
headers = { authorization = 's3cret' }
";

#[tokio::test]
async fn a_check_accepts_what_can_run() {
    let (_folder, path) = file(GOOD);
    let by_argument = output(&mut lapwing(&["config", "check", "--config", &path])).await;
    assert_eq!(by_argument.code, Some(0));
    let expected = "ok: 1 consumer\norders: a message that keeps failing has 20 attempts in ";
    assert!(by_argument.out.starts_with(expected), "{by_argument:?}");
    let mut command = lapwing(&["config", "check"]);
    command.env("LAPWING_CONFIG", &path);
    let by_variable = output(&mut command).await;
    assert_eq!(
        (by_variable.code, by_variable.out),
        (Some(0), by_argument.out)
    );
}

#[tokio::test]
async fn a_check_lists_every_problem_with_its_source_and_exits_78() {
    let (_folder, path) = file(
        "[broker]\nheartbeat = '10500ms'\n[drain]\ngrace = 25\n[consumers.orders]\n\
         queue = 'orders'\nconcurrency = 80\ntimout = '3s'\nhandler = { kind = 'http' }\n",
    );
    let problems = [
        ("broker.heartbeat", "line 2"),
        ("drain.grace", "line 4"),
        ("consumers.orders.concurrency", "line 7"),
        ("consumers.orders.timout", "line 8"),
        ("consumers.orders.handler", "line 9"),
        ("publish.channels", "LAPWING__PUBLISH__CHANNELS"),
        ("nonsense", "LAPWING__NONSENSE__KEY"),
    ];
    for subcommand in [
        &["config", "check"][..],
        &["run"],
        &["publish", "-q", "q", "x"],
    ] {
        let mut command = lapwing(subcommand);
        command
            .args(["--config", &path])
            .env("LAPWING__PUBLISH__CHANNELS", "many")
            .env("LAPWING__NONSENSE__KEY", "1");
        let ended = output(&mut command).await;
        assert_eq!(ended.code, Some(78), "{subcommand:?}: {ended:?}");
        for (key, source) in problems {
            let told = |line: &str| line.contains(key) && line.contains(source);
            assert!(
                ended.err.lines().any(told),
                "{subcommand:?} {key}: {}",
                ended.err
            );
        }
        assert_eq!(ended.out, "");
    }
}

#[tokio::test]
async fn what_is_in_force_is_shown_and_secrets_are_not() {
    let (_folder, path) = file(GOOD);
    for format in ["toml", "json"] {
        let mut command = lapwing(&["config", "show", "--config", &path, "--format", format]);
        command
            .env("LAPWING__CONSUMERS__ORDERS__PREFETCH", "99")
            .env("LAPWING__BROKER__TLS__CA_FILE", "/no/such/s3cret-free/file");
        let ended = output(&mut command).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(
            !ended.out.contains("\"s3cret\"") && !ended.out.contains(":s3cret@"),
            "{}",
            ended.out
        );
        assert!(!ended.out.contains("token=s3cret"), "{}", ended.out);
        let shown: serde_json::Value = match format {
            "json" => serde_json::from_str(&ended.out).expect("it is JSON"),
            _ => toml::from_str(&ended.out).expect("it is TOML"),
        };
        let orders = &shown["consumers"]["orders"];
        assert_eq!(orders["prefetch"], 99, "the environment comes on top");
        assert_eq!(orders["concurrency"], 32, "the defaults are shown too");
        assert_eq!(orders["handler"]["headers"]["authorization"], "[redacted]");
        assert_eq!(
            shown["broker"]["tls"]["ca_file"],
            "/no/such/s3cret-free/file"
        );
    }
}

#[tokio::test]
async fn the_shown_settings_are_settings() {
    let (_folder, path) = file("[consumers.q]\nqueue = 'q'\nhandler.kind = 'log'");
    let shown = output(&mut lapwing(&["config", "show", "--config", &path])).await;
    let (_other, again) = file(&shown.out);
    let checked = output(&mut lapwing(&["config", "check", "--config", &again])).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.out.starts_with("ok: 1 consumer\n"), "{checked:?}");
}

#[tokio::test]
async fn the_schema_for_editors_is_json_about_every_section() {
    let printed = output(&mut lapwing(&["config", "schema"])).await;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let schema: serde_json::Value = serde_json::from_str(&printed.out).expect("it is JSON");
    for section in ["broker", "drain", "admin", "consumers"] {
        let section = &schema["properties"][section];
        assert!(section["description"].is_string(), "{section}");
    }
    assert_eq!(schema["additionalProperties"], false);
}

#[tokio::test]
async fn a_missing_file_is_a_problem_of_the_configuration() {
    let ended = output(&mut lapwing(&[
        "config",
        "check",
        "--config",
        "/no/such/file",
    ]))
    .await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.err.contains("/no/such/file"), "{ended:?}");
}

#[tokio::test]
async fn no_command_prints_the_usage() {
    let bare = output_of(&mut lapwing(&[]), "").await;
    assert_eq!(bare.code, Some(2));
    for command in ["run", "publish", "config"] {
        assert!(bare.err.contains(command), "{}", bare.err);
    }
    let version = output(&mut lapwing(&["--version"])).await;
    assert_eq!(version.code, Some(0));
    assert_eq!(
        version.out.trim(),
        concat!("lapwing ", env!("CARGO_PKG_VERSION"))
    );
}

#[tokio::test]
async fn a_terminal_that_takes_nothing_does_not_change_the_result_of_a_check() {
    let (_folder, good) = file("[consumers.q]\nqueue = 'q'\nhandler.kind = 'log'");
    for (file, code) in [(good.as_str(), 0), ("/no/such/file", 78)] {
        let full = || std::fs::File::options().write(true).open("/dev/full");
        let mut command = lapwing(&["config", "check", "--config", file]);
        command
            .stdout(full().expect("Linux has it"))
            .stderr(full().expect("Linux has it"));
        let exit = crate::support::within("the command", command.status()).await;
        assert_eq!(exit.expect("it starts").code(), Some(code), "{file}");
    }
}
