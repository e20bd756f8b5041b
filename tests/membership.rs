//! Gateways that enter themselves in etcd or ZooKeeper: users land where they belong, move when a gateway joins, come back when one dies or
//! leaves, and notice nothing when the registry dies.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use roost_membership::{Member, Ring};
use roost_testing::host::Port;
use roost_testing::{Etcd, RabbitMq, Redis, ZooKeeper};
use support::cluster::{Gateway, Tail};
use support::tiers::{Tier, act, app, register, token};
use support::{DEADLINE, roost, run_fails, run_ok, wait_at_most, wait_for};

const USERS: usize = 12;
/// One session a second leaves a gateway, two never within half a second.
const SHED_PER_SECOND: u32 = 1;
const SHED_PAUSE_MIN: Duration = Duration::from_millis(500);
const GATEWAYS: [&str; 3] = ["gw-1", "gw-2", "gw-3"];

fn user(n: usize) -> String {
    format!("user-{n}")
}

/// Who belongs where, by name of the gateway.
fn placed(gateways: &[&str]) -> BTreeMap<String, Vec<usize>> {
    let member = |name: &&str| Member { name: (*name).into(), address: "h:1".into(), weight: 1 };
    let ring = Ring::new(gateways.iter().map(member).collect()).unwrap();
    let mut placed = BTreeMap::<String, Vec<usize>>::new();
    for n in 0..USERS {
        let owner = ring.owner("shop", &user(n)).unwrap();
        placed.entry(owner.name.to_string()).or_default().push(n);
    }
    placed
}

fn write_configuration(
    gateway: &Gateway,
    (kind, endpoint): (&str, &str),
    broker: &RabbitMq,
    redis: &Redis,
    folder: &Path,
    http: &Port,
) {
    let text = format!(
        "[bus]\nurl = {:?}\npartitions = 4\n\
         [membership]\nkind = {kind:?}\nendpoints = [{endpoint:?}]\nlease_ms = 2000\nresponse_timeout_ms = 900\naddress = {:?}\n\
         [cluster]\nredirect = true\nshed_per_second = {SHED_PER_SECOND}\nshed_after_ms = 200\n\
         [routes]\nurl = {:?}\ngateway_lease_ms = 2000\n\
         {}[gateway.drain]\ngo_away_window_ms = 500\nreconnect_after_max_ms = 500\nclose_after_ms = 500\n\
         [logic]\nhttp_listen = \"127.0.0.1:{}\"\ndata_dir = {:?}\n{}",
        broker.url(),
        gateway.server,
        redis.url(),
        gateway.table(),
        http.number(),
        folder.join("data"),
        app(),
    );
    std::fs::write(&gateway.file, text).unwrap();
}

struct Scene {
    gateways: [Gateway; 3],
    redis: Redis,
    http: Port,
    tails: Vec<Tail>,
    sent: usize,
}

impl Scene {
    /// The gateway that logic tells a user to connect to.
    fn located(&self, n: usize) -> String {
        let url = format!("http://127.0.0.1:{}/v1/locate", self.http.number());
        let token = format!("Bearer {}", token(&user(n)));
        let answer = ureq::get(url).header("authorization", token).call();
        let location: serde_json::Value = answer.unwrap().body_mut().read_json().unwrap();
        location["gateway"].as_str().unwrap().to_owned()
    }

    /// A message to everybody, sent by one of them.
    fn send(&mut self) -> String {
        self.sent += 1;
        let text = format!("message {} to all", self.sent);
        for n in 0..USERS {
            let (from, to) = (user((n + 1) % USERS), user(n));
            run_ok(act("send", &from, &self.gateways[0].server, &["--to", &to, &text]));
        }
        text
    }

    fn send_and_wait(&mut self) {
        let text = self.send();
        self.tails.iter_mut().for_each(|tail| tail.wait_at_most(DEADLINE, &text));
    }

    /// Until everybody has the session where the ring of these gateways puts it.
    fn wait_settled(&self, gateways: &[&str]) {
        let placed = placed(gateways);
        wait_at_most(2 * DEADLINE, &format!("everybody is at home in {gateways:?}"), || {
            let is_home = |n: &usize, name: &str| {
                let has_route = |route: String| route.starts_with(&format!("{name}/"));
                self.located(*n) == name && self.route(*n, gateways).is_some_and(has_route)
            };
            let all = placed.iter().all(|(name, users)| users.iter().all(|n| is_home(n, name)));
            all.then_some(())
        });
        for gateway in self.gateways.iter().filter(|g| gateways.contains(&&*g.name)) {
            let users = placed.get(&gateway.name).map_or(0, Vec::len);
            wait_for("only they are there", || (gateway.sessions() == users).then_some(()));
        }
    }

    /// The route of a user's only session on these gateways, when it has one: gateway, device and session epoch. A new session has
    /// another one. What a dead gateway left stays until its lease is over.
    fn route(&self, n: usize, gateways: &[&str]) -> Option<String> {
        let answer = self.redis.cli(&["HGETALL", &format!("roost:routes:shop/{}", user(n))]);
        let lines: Vec<_> = answer.lines().collect();
        let is_of =
            |place: &str| gateways.iter().any(|name| place.starts_with(&format!("{name}/")));
        let routes: Vec<_> = lines.chunks_exact(2).filter(|pair| is_of(pair[0])).collect();
        let [route] = routes[..] else { return None };
        Some(format!("{} {}", route[0], route[1].split(' ').next()?))
    }

    fn routes(&self, gateways: &[&str]) -> Vec<String> {
        wait_for("everybody has one session", || {
            (0..USERS).map(|n| self.route(n, gateways)).collect()
        })
    }

    fn shed(&self) -> [usize; 2] {
        [0, 1].map(|i| self.gateways[i].metric("roost_gateway_shed_total") as usize)
    }

    /// The third gateway gets its users from the others, one after the other, and every message arrives all the while.
    fn a_gateway_joins(&mut self) -> Tier {
        assert_eq!(self.shed(), [0, 0]);
        let joined = Tier::start("gateway", &self.gateways[2].file);
        let moving = placed(&GATEWAYS)["gw-3"].len();
        let mut samples = vec![(Instant::now(), self.shed())];
        let mut texts = vec![self.send()];
        while samples.last().is_some_and(|(_, shed)| shed.iter().sum::<usize>() < moving) {
            let (before, last) = (Instant::now(), samples[samples.len() - 1]);
            let shed = self.shed();
            if last.0.elapsed() < SHED_PAUSE_MIN {
                let is_paced = shed.iter().zip(last.1).all(|(now, then)| *now <= then + 1);
                assert!(is_paced, "{last:?}, then {shed:?} within {:?}", last.0.elapsed());
            }
            if shed != last.1 {
                texts.push(self.send());
            }
            samples.push((before, shed));
            assert!(samples[0].0.elapsed() < 2 * DEADLINE, "{moving} should move: {shed:?}");
        }
        self.wait_settled(&GATEWAYS);
        assert_eq!(self.shed().iter().sum::<usize>(), moving, "nobody else was sent away");
        for tail in &mut self.tails {
            texts.iter().for_each(|text| tail.wait_at_most(DEADLINE, text));
        }
        joined
    }

    /// Its users come back to the others when its lease is over.
    fn a_gateway_dies(&mut self, second: Tier) {
        drop(second);
        self.wait_settled(&["gw-1", "gw-3"]);
        self.send_and_wait();
    }

    /// Nobody loses a session or a message; only membership stands still.
    fn etcd_dies(&mut self, etcd: &mut Etcd) {
        let routes = self.routes(&["gw-1", "gw-3"]);
        etcd.kill();
        let alive = [&self.gateways[0], &self.gateways[2]];
        wait_for("leases are over", || {
            let is_fenced = |g: &&Gateway| g.metric("roost_membership_fenced") == 1.0;
            alive.iter().all(is_fenced).then_some(())
        });
        let readiness = alive[0].readiness();
        assert!(readiness.starts_with("ready\n"), "{readiness}");
        assert!(readiness.contains("[-- ] membership: etcd: no server answers"), "{readiness}");
        assert!(readiness.contains("the last 2 members stay"), "{readiness}");
        self.send_and_wait();
        let mut late = roost();
        late.args(["gateway", "--config"]).arg(&self.gateways[1].file);
        run_fails(late, 1, &["etcd cannot be used for membership", "no server answers"]);
        etcd.restart();
        let alive = [&self.gateways[0], &self.gateways[2]];
        wait_for("leases are proven again", || {
            let is_back = |g: &&Gateway| {
                g.metric("roost_membership_fenced") == 0.0
                    && g.metric("roost_membership_connected") == 1.0
            };
            alive.iter().all(is_back).then_some(())
        });
        self.send_and_wait();
        assert_eq!(self.routes(&["gw-1", "gw-3"]), routes, "the same sessions all the time");
    }

    /// It never listens: the other one could not even be reached under its name.
    fn a_name_is_taken(&self, folder: &Path) {
        let config = std::fs::read_to_string(&self.gateways[0].file).unwrap();
        let file = folder.join("twin.toml");
        std::fs::write(&file, config).unwrap();
        let mut twin = roost();
        twin.args(["gateway", "--config"]).arg(&file);
        run_fails(twin, 1, &["another gateway named \"gw-1\" is a member", "gateway.name"]);
    }
}

/// Everything but the registry, with logic and the first two gateways.
struct Cluster {
    scene: Scene,
    second: Tier,
    folder: tempfile::TempDir,
    _services: (RabbitMq, Tier, Tier),
}

impl Cluster {
    fn start(registry: (&str, &str)) -> Self {
        let (broker, redis) = (RabbitMq::start(), Redis::start());
        let folder = tempfile::tempdir().unwrap();
        let http = Port::free();
        let gateways = GATEWAYS.map(|name| Gateway::new(name, folder.path()));
        for gateway in &gateways {
            write_configuration(gateway, registry, &broker, &redis, folder.path(), &http);
        }
        let logic = Tier::start("logic", &gateways[0].file);
        let first = Tier::start("gateway", &gateways[0].file);
        let second = Tier::start("gateway", &gateways[1].file);
        let users: Vec<_> = (0..USERS).map(user).collect();
        register(http.number(), &users.iter().map(String::as_str).collect::<Vec<_>>());
        let tails = users.iter().map(|user| Tail::start(user, &gateways[0].server)).collect();
        let mut scene = Scene { gateways, redis, http, tails, sent: 0 };
        scene.wait_settled(&["gw-1", "gw-2"]);
        scene.send_and_wait();
        Self { scene, second, folder, _services: (broker, logic, first) }
    }
}

#[test]
fn users_follow_the_members_and_need_no_registry_to_stay() {
    let mut etcd = Etcd::start();
    let Cluster { mut scene, second, folder, _services } = Cluster::start(("etcd", &etcd.url()));
    let _third = scene.a_gateway_joins();
    scene.a_gateway_dies(second);
    scene.etcd_dies(&mut etcd);
    scene.a_name_is_taken(folder.path());
}

/// It gives its users back before it ends: nobody is sent to it meanwhile.
#[test]
fn a_gateway_leaves_zookeeper() {
    let zookeeper = ZooKeeper::start();
    let Cluster { mut scene, second, folder: _folder, _services } =
        Cluster::start(("zookeeper", &zookeeper.address()));
    let readiness = scene.gateways[0].readiness();
    assert!(readiness.contains("[ok ] membership: ZooKeeper, members: 2"), "{readiness}");
    second.stop();
    wait_for("it is no member", || {
        let readiness = scene.gateways[0].readiness();
        readiness.contains("[ok ] membership: ZooKeeper, members: 1").then_some(())
    });
    scene.wait_settled(&["gw-1"]);
    scene.send_and_wait();
}
