//! Faults as the report names them. What differs from one of them to the next, its duration, comes last.

use std::time::Duration;

use super::schedule::{Fault, Place, Way};
use crate::cluster::{Cluster, Service};
use crate::link::Link;

/// As a line of the report.
pub(super) fn describe(cluster: &Cluster, fault: &Fault) -> String {
    let seconds = |length: &Duration| format!("{:.1} s", length.as_secs_f64());
    let name = |service: &Service| cluster.name_of(*service);
    match fault {
        Fault::Kill(service, _) => format!("kill {}", name(service)),
        Fault::Pause(service, length) => format!("pause {} {}", name(service), seconds(length)),
        Fault::Flush => "flush Redis".to_owned(),
        Fault::Purge(..) => "purge all queues".to_owned(),
        Fault::Alarm(length) => format!("memory alarm {}", seconds(length)),
        Fault::Partition(Place::Service(service), way, length) => {
            let way = match way {
                Way::Both => "from everybody",
                Way::To => "from what is said to it",
                Way::From => "from those it answers",
            };
            format!("cut {} {way} {}", name(service), seconds(length))
        }
        Fault::Partition(Place::Link(link), way, length) => {
            let way = match way {
                Way::Both => "both ways",
                Way::To => "one way",
                Way::From => "the other way",
            };
            format!("cut {} {way} {}", link_name(cluster, *link), seconds(length))
        }
        Fault::Slow(link, _, length) => {
            format!("slow {} {}", link_name(cluster, *link), seconds(length))
        }
        Fault::Repeat(index, length) => {
            format!(
                "frames twice, {} {}",
                link_name(cluster, Link::Clients(*index)),
                seconds(length)
            )
        }
        Fault::Republish(length) => format!("bodies twice {}", seconds(length)),
        Fault::Clock(service, offset_s, length) => {
            let way = if *offset_s > 0 { "forward and back" } else { "back and forward" };
            format!("clock of {} {way} {}", name(service), seconds(length))
        }
        Fault::Disk(length) => {
            format!("disk of {} full {}", name(&Service::Store), seconds(length))
        }
    }
}

fn link_name(cluster: &Cluster, link: Link) -> String {
    let name = |service| cluster.name_of(service);
    match link {
        Link::Clients(index) => format!("clients and {}", name(Service::Gateway(index))),
        Link::GatewayBroker(index) => format!("{} and RabbitMQ", name(Service::Gateway(index))),
        Link::LogicBroker(index) => format!("{} and RabbitMQ", name(Service::Logic(index))),
    }
}
