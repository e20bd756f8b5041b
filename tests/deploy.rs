//! What an operator copies from `deploy/` works: files are valid, units verify and are hardened, a real broker takes the definitions,
//! and the server runs under the system call filter.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use roost_testing::RabbitMq;
use roost_testing::host::need_package;
use support::{Options, Server, roost, run, run_ok, send};

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

#[test]
fn configuration_files_are_valid() {
    for file in ["gateway.toml", "logic.toml"] {
        let mut command = roost();
        command.args(["config", "check"]).arg(deploy(file));
        assert!(run_ok(command).contains("valid"));
    }
}

/// A unit as it is on a host, where the server is installed.
fn installed(unit: &str, folder: &Path) -> PathBuf {
    let text = std::fs::read_to_string(deploy("systemd").join(unit)).unwrap();
    let place = "/usr/local/bin/roost";
    assert!(text.contains(place));
    let file = folder.join(unit);
    std::fs::write(&file, text.replace(place, env!("CARGO_BIN_EXE_roost"))).unwrap();
    file
}

#[test]
fn units_verify_and_are_hardened() {
    const PROGRAM: &str = "/usr/bin/systemd-analyze";
    need_package(PROGRAM, "systemd");
    let folder = tempfile::tempdir().unwrap();
    for unit in ["roost-gateway.service", "roost-logic.service"] {
        let file = installed(unit, folder.path());
        let mut verify = Command::new(PROGRAM);
        verify.args(["verify", "--man=no", "--recursive-errors=no"]).arg(&file);
        let output = run(verify);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let about_it: Vec<&str> = said.lines().filter(|line| line.contains(unit)).collect();
        assert!(output.status.success() && about_it.is_empty(), "{said}");
        // 0 is a unit that may do nothing, 10 one that may do everything.
        let mut security = Command::new(PROGRAM);
        security.args(["security", "--offline=true", "--threshold=20", "--no-pager"]).arg(&file);
        run_ok(security);
    }
}

#[test]
fn settings_of_the_kernel_exist() {
    let text = std::fs::read_to_string(deploy("sysctl/90-roost.conf")).unwrap();
    let settings = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let mut count = 0;
    for setting in settings {
        let (key, value) = setting.split_once(" = ").expect(setting);
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        let now = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{key}: {e}"));
        let numbers = |text: &str| -> Result<Vec<u64>, _> {
            text.split_whitespace().map(str::parse).collect()
        };
        let count_of = |text| numbers(text).map(|all| all.len());
        assert!(count_of(value).is_ok() && count_of(value) == count_of(&now), "{setting}");
        count += 1;
    }
    assert!(count >= 5, "{text}");
}

#[test]
fn a_broker_takes_the_definitions() {
    let broker = RabbitMq::start();
    let file = deploy("rabbitmq/definitions.json");
    broker.ctl(&["import_definitions", file.to_str().unwrap()]);
    let said = broker.ctl(&[
        "eval",
        "{rabbit_auth_backend_internal:list_vhost_permissions(<<\"roost\">>), rabbit_policy:list(<<\"roost\">>)}.",
    ]);
    for part in ["^roost[.]|^amq[.]default$", "roost-dead", "message-ttl"] {
        assert!(said.contains(part), "{said}");
    }
    // Nobody gets in with the empty password of the file.
    let login = |password: &str| {
        let user = "rabbit_access_control:check_user_pass_login";
        broker.ctl(&["eval", &format!("element(1, {user}(<<\"roost\">>, <<\"{password}\">>)).")])
    };
    assert_eq!(login("").trim(), "refused");
    broker.ctl(&["change_password", "roost", "a password"]);
    assert_eq!(login("a password").trim(), "ok");
}

/// Installs the filter as a container runtime does, then becomes the program.
const FILTERED: &str = r"
import json, os, seccomp, sys
profile = json.load(open(sys.argv[1]))
assert profile['defaultAction'] == 'SCMP_ACT_ERRNO'
allowed = seccomp.SyscallFilter(seccomp.ERRNO(profile['defaultErrnoRet']))
for rule in profile['syscalls']:
    errno = rule.get('errnoRet')
    assert (rule['action'] == 'SCMP_ACT_ALLOW') == (errno is None)
    action = seccomp.ALLOW if errno is None else seccomp.ERRNO(errno)
    arguments = [
        seccomp.Arg(a['index'], getattr(seccomp, a['op'].removeprefix('SCMP_CMP_')), a['value'], a['valueTwo'])
        for a in rule.get('args', [])
    ]
    for name in rule['names']:
        allowed.add_rule(action, name, *arguments)
allowed.load()
os.execv(sys.argv[2], sys.argv[2:])
";

#[test]
fn the_server_runs_under_the_system_call_filter() {
    need_package("/usr/share/doc/python3-seccomp/copyright", "python3-seccomp");
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("filtered.py");
    std::fs::write(&script, FILTERED).unwrap();
    let mut options = Options::new(&folder.path().join("data")).driver("io_uring");
    options.wrapper =
        vec!["/usr/bin/python3".into(), script.into(), deploy("seccomp/roost.json").into()];
    let server = Server::start(&options);
    assert!(server.banner.iter().any(|line| line.contains("io_uring")), "{:?}", server.banner);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    assert!(status.lines().any(|line| line == "Seccomp:\t2"), "{status}");
    assert!(run_ok(send(&server, "alice", "bob", "hello")).contains("acked"));
    assert!(server.stop().success());
}
