//! Two logic processes on one bus and one database server, with one database or two: killed and stopped under load, in turns, they lose, repeat and reorder nothing,
//! and the other one takes over at once. What one of them knows of accounts and tokens, the other knows too.

mod support;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser as _;
use roost_loadtest::options::{Command, Options as LoadOptions};
use roost_loadtest::run::Run;
use roost_loadtest::scenario::{Conductor, chat};
use roost_testing::host::Port;
use roost_testing::{MariaDb, PostgreSql, RabbitMq};
use serde_json::{Value, json};
use support::tiers::{API_KEY, SECRET, Tier, app};
use support::{get, roost, run_fails, wait_at_most};

const PARTITIONS: usize = 8;
/// The goal is a second; the machine may be busy with anything.
const KILLED_WITHIN: Duration = Duration::from_secs(10);
/// A stopped process keeps its connection to the broker for two heartbeats, and its place in the division for as long.
const STOPPED_WITHIN: Duration = Duration::from_secs(40);
/// For a process to start and get its share.
const SHARED_WITHIN: Duration = Duration::from_secs(60);
const LOAD_SECONDS_MAX: u64 = 600;
const ACKED_MIN: u64 = 2_000;

/// The statement language of either server.
type Sql<'a> = &'a dyn Fn(&str) -> String;

struct Cluster {
    files: [PathBuf; 2],
    https: [Port; 2],
    server: String,
    logics: [Option<Tier>; 2],
    _gateways: Vec<Tier>,
    /// Claimed for as long as they may be listened on.
    _ports: Vec<Port>,
    _broker: RabbitMq,
}

impl Cluster {
    /// `store`: the databases, as a line of [logic.store].
    fn start(folder: &Path, store: &str, gateways: usize) -> Self {
        let broker = RabbitMq::start();
        let https = [Port::free(), Port::free()];
        let frames: Vec<Port> = (0..gateways).map(|_| Port::free()).collect();
        let address = |index: usize| format!("127.0.0.1:{}", frames[index].number());
        let list: Vec<String> =
            (0..gateways).map(|index| format!("gw-{index}={}", address(index))).collect();
        let ports = RefCell::new(Vec::new());
        let write = |file: &str, logic: usize, gateway: usize| {
            let (path, admin) = (folder.join(file), Port::free());
            let admin_port = admin.number();
            ports.borrow_mut().push(admin);
            let text = format!(
                "[bus]\nurl = {:?}\npartitions = {PARTITIONS}\nheartbeat_ms = 2000\n\
                 [cluster]\ngateways = {list:?}\nredirect = true\n\
                 [gateway]\nname = \"gw-{gateway}\"\nlisten = [{:?}]\nadmin_listen = \"127.0.0.1:{}\"\nshards = 1\n\
                 [logic]\nname = \"logic-{logic}\"\nhttp_listen = \"127.0.0.1:{}\"\ndata_dir = {:?}\n\
                 [logic.store]\n{store}\n{}",
                broker.url(),
                address(gateway),
                admin_port,
                https[logic].number(),
                folder.join(format!("data-{logic}")),
                app(),
            );
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = [0, 1].map(|logic| write(&format!("logic-{logic}.toml"), logic, 0));
        let logics = [0, 1].map(|logic| Some(Tier::start("logic", &files[logic])));
        let start = |gateway| {
            Tier::start("gateway", &write(&format!("gateway-{gateway}.toml"), 0, gateway))
        };
        let _gateways = (0..gateways).map(start).collect();
        let server = address(0);
        let _ports = frames.into_iter().chain(ports.into_inner()).collect();
        Self { files, https, server, logics, _gateways, _ports, _broker: broker }
    }

    fn url(&self, logic: usize, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.https[logic].number())
    }

    fn post(&self, logic: usize, path: &str, body: &Value) -> Value {
        let mut answer = ureq::post(self.url(logic, path)).send_json(body).expect(path);
        answer.body_mut().read_json().expect(path)
    }

    /// Registration, login, refresh and keys of each are those of the other.
    fn check_accounts(&self) {
        let account = json!({"app": "shop", "user": "carol", "password": "correct horse"});
        self.post(0, "/v1/register", &account);
        let login = self.post(1, "/v1/login", &account);
        let refresh = json!({"refresh_token": login["refresh_token"]});
        let first = self.post(0, "/v1/refresh", &refresh);
        let again = self.post(1, "/v1/refresh", &refresh);
        assert!(first["refresh_token"].is_string());
        assert_eq!(first["refresh_token"], again["refresh_token"], "one successor");
        let keys = [0, 1].map(|logic| get(&self.url(logic, "/.well-known/jwks.json")));
        assert_eq!(keys[0], keys[1]);
        // A token that one has signed is good at the other.
        let token = login["access_token"].as_str().expect("a token");
        let me =
            ureq::get(self.url(0, "/v1/me")).header("authorization", format!("Bearer {token}"));
        me.call().expect("let in");
    }

    /// A third process with the name of the first is told so.
    fn check_names(&self) {
        let mut command = roost();
        command.args(["logic", "--config"]).arg(&self.files[0]);
        command.env("ROOST_BUS__NAME_WAIT_MS", "300");
        command.env("ROOST_LOGIC__ADMIN_LISTEN", "127.0.0.1:0");
        run_fails(command, 1, &["api-logic-0", "logic.name"]);
    }
}

/// How many partitions a logic process has.
fn owned(sql: Sql<'_>, logic: usize) -> usize {
    let count = sql(&format!("SELECT COUNT(*) FROM partition_owner WHERE owner = 'logic-{logic}'"));
    count.trim().parse().expect("a number")
}

fn wait_owned(sql: Sql<'_>, limit: Duration, what: &str, logic: usize, enough: usize) -> Duration {
    let start = Instant::now();
    wait_at_most(limit, what, || (owned(sql, logic) >= enough).then(|| start.elapsed()))
}

fn load(
    cluster: &Cluster,
    users: u32,
    rate: u32,
    conductor: &Arc<Conductor>,
) -> impl FnOnce() -> Run + use<> {
    let arguments = [
        "roost-load".to_owned(),
        "chat".to_owned(),
        format!("--server={}", cluster.server),
        format!("--http=127.0.0.1:{}", cluster.https[0].number()),
        format!("--users={users}"),
        format!("--rate={rate}"),
        format!("--duration={LOAD_SECONDS_MAX}"),
        "--drain=120".to_owned(),
        "--app=shop".to_owned(),
        "--key-id=shop-1".to_owned(),
        format!("--key-secret={SECRET}"),
        format!("--api-key={API_KEY}"),
    ];
    let Command::Chat(options) = LoadOptions::try_parse_from(arguments).unwrap().command else {
        panic!("not chat")
    };
    let conductor = Arc::clone(conductor);
    let running = std::thread::spawn(move || chat::run_with(options, &conductor).unwrap());
    move || running.join().unwrap()
}

/// `kill -9` and SIGSTOP of the processes in turns, under load.
fn survive(cluster: &mut Cluster, sql: Sql<'_>, kills: usize, stops: usize) {
    let conductor = Arc::<Conductor>::default();
    let ended = load(cluster, 60, 300, &conductor);
    let share = PARTITIONS / 2;
    for logic in [0, 1] {
        wait_owned(sql, SHARED_WITHIN, "each has its share", logic, share);
    }
    let mut recoveries = Vec::new();
    for kill in 0..kills {
        let (victim, other) = (kill % 2, 1 - kill % 2);
        let at = Instant::now();
        drop(cluster.logics[victim].take());
        conductor.record_kill(at, true);
        recoveries.push(wait_owned(sql, KILLED_WITHIN, "a kill", other, PARTITIONS));
        cluster.logics[victim] = Some(Tier::start("logic", &cluster.files[victim]));
        wait_owned(sql, SHARED_WITHIN, "it has its share again", victim, share);
    }
    println!("killed; the other one had everything after {recoveries:?}");
    for stop in 0..stops {
        let (victim, other) = (stop % 2, 1 - stop % 2);
        let tier = cluster.logics[victim].as_ref().expect("it runs");
        tier.signal("-STOP");
        let taken = wait_owned(sql, STOPPED_WITHIN, "a stop", other, PARTITIONS);
        println!("stopped; the other one had everything after {taken:?}");
        tier.signal("-CONT");
        wait_owned(sql, SHARED_WITHIN, "it has its share again", victim, share);
    }
    conductor.end();
    let run = ended();
    let verdict = run.verdict.as_ref().expect("messages were sent");
    assert!(verdict.is_pass(), "{verdict}");
    assert_eq!(run.failures, [""; 0]);
    let counts = verdict.counts;
    assert_eq!((counts.acked, counts.settled), (counts.sent, 60), "{verdict}");
    assert!(counts.acked >= ACKED_MIN, "proves little: {verdict}");
    println!("{} messages, all checks clean", counts.acked);
}

#[test]
fn two_logics_on_mariadb_survive_kills_and_stops() {
    let database = MariaDb::start();
    database.sql("CREATE DATABASE roost");
    let folder = tempfile::tempdir().unwrap();
    let mut cluster =
        Cluster::start(folder.path(), &format!("url = {:?}", database.url("roost")), 2);
    cluster.check_accounts();
    cluster.check_names();
    survive(&mut cluster, &|text| database.sql(&format!("USE roost; {text}")), 6, 2);
}

#[test]
fn two_logics_on_postgresql_survive_kills_and_stops() {
    let database = PostgreSql::start();
    let folder = tempfile::tempdir().unwrap();
    let mut cluster =
        Cluster::start(folder.path(), &format!("url = {:?}", database.url("postgres")), 1);
    cluster.check_accounts();
    survive(&mut cluster, &|text| database.sql(text), 2, 1);
}

/// Everything of the other tests, and each database has its part of it.
#[test]
fn two_logics_on_two_databases_survive_kills_and_stops() {
    let database = MariaDb::start();
    database.sql("CREATE DATABASE roost0; CREATE DATABASE roost1");
    let folder = tempfile::tempdir().unwrap();
    let urls = ["roost0", "roost1"].map(|name| database.url(name));
    let mut cluster = Cluster::start(folder.path(), &format!("urls = {urls:?}"), 1);
    cluster.check_accounts();
    survive(&mut cluster, &|text| database.sql(&format!("USE roost1; {text}")), 4, 1);
    for name in ["roost0", "roost1"] {
        for table in ["users", "messages", "inbox"] {
            let count = database.sql(&format!("SELECT COUNT(*) FROM {name}.{table}"));
            assert!(count.trim().parse::<u64>().unwrap() > 0, "{name}.{table}");
        }
    }
}
