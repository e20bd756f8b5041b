//! What can be done to each part of a cluster: kill, restart, stop, go on.

use anyhow::Result;

use super::Cluster;

/// A part that can be killed, paused and started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// By its position.
    Gateway(usize),
    /// By its position.
    Logic(usize),
    /// The broker.
    RabbitMq,
    /// Routes.
    Redis,
    /// The database server.
    Store,
    /// Where gateways enter themselves.
    Registry,
}

impl Cluster {
    /// The port that a part serves.
    pub(crate) fn port_of(&self, service: Service) -> u16 {
        match service {
            Service::Gateway(index) => self.gateways[index].ports[0],
            Service::Logic(index) => self.logics[index].ports[0],
            Service::RabbitMq => self.broker.port(),
            Service::Redis => self.redis.port(),
            Service::Store => self.store.part().map_or(0, |part| part.ports[0]),
            Service::Registry => self.registry.part().map_or(0, |part| part.ports[0]),
        }
    }

    /// Its process, which is another one after a restart.
    pub(crate) fn id_of(&self, service: Service) -> u32 {
        match service {
            Service::Gateway(index) => self.gateways[index].id(),
            Service::Logic(index) => self.logics[index].id(),
            Service::RabbitMq => self.broker.process().id(),
            Service::Redis => self.redis.process().id(),
            Service::Store => self.store.part().map_or(0, |part| part.id),
            Service::Registry => self.registry.part().map_or(0, |part| part.id),
        }
    }

    /// As a person names it.
    pub(crate) fn name_of(&self, service: Service) -> String {
        match service {
            Service::Gateway(index) => self.gateways[index].name.clone(),
            Service::Logic(index) => self.logics[index].name.clone(),
            Service::RabbitMq => "RabbitMQ".to_owned(),
            Service::Redis => "Redis".to_owned(),
            Service::Store => self.store.part().map_or("SQLite".to_owned(), |part| part.name),
            Service::Registry => self.registry.part().map_or("static".to_owned(), |part| part.name),
        }
    }

    /// kill -9. Returns when it is gone.
    pub fn kill(&mut self, service: Service) {
        match service {
            Service::Gateway(index) => self.gateways[index].kill(),
            Service::Logic(index) => self.logics[index].kill(),
            Service::RabbitMq => self.broker.kill(),
            Service::Redis => self.redis.kill(),
            Service::Store => self.store.kill(),
            Service::Registry => self.registry.kill(),
        }
    }

    /// Starts a killed part again on the same ports with the same data.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn restart(&mut self, service: Service) -> Result<()> {
        match service {
            Service::Gateway(index) => self.gateways[index].restart()?,
            Service::Logic(index) => self.logics[index].restart()?,
            Service::RabbitMq => self.broker.restart(),
            Service::Redis => self.redis.restart(),
            Service::Store => self.store.restart(),
            Service::Registry => self.registry.restart(),
        }
        Ok(())
    }

    /// SIGSTOP.
    pub fn pause(&self, service: Service) {
        match service {
            Service::Gateway(index) => self.gateways[index].pause(),
            Service::Logic(index) => self.logics[index].pause(),
            Service::RabbitMq => self.broker.pause(),
            Service::Redis => self.redis.pause(),
            Service::Store => self.store.pause(),
            Service::Registry => self.registry.pause(),
        }
    }

    /// SIGCONT.
    pub fn resume(&self, service: Service) {
        match service {
            Service::Gateway(index) => self.gateways[index].resume(),
            Service::Logic(index) => self.logics[index].resume(),
            Service::RabbitMq => self.broker.resume(),
            Service::Redis => self.redis.resume(),
            Service::Store => self.store.resume(),
            Service::Registry => self.registry.resume(),
        }
    }
}
