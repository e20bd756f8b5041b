//! Which place a database has in its installation. It is recorded once, in the table `installation`, and another list is refused:
//! whoever opened a database in another place would find nothing of what is stored, and store it again elsewhere.
//!
//! The first database is recorded last: as long as it has no record, a start was interrupted before anything could be stored.

use super::super::placement;
use super::{Result, ServerStore, StoreError, random_id};

/// The row's name.
const NAME: &str = "database";

/// What the row says: "ID INDEX COUNT PLACEMENT".
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seat {
    installation: String,
    index: usize,
    count: usize,
    placement: u16,
}

impl Seat {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let seat = Self {
            installation: parts.next()?.to_owned(),
            index: parts.next()?.parse().ok()?,
            count: parts.next()?.parse().ok()?,
            placement: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(seat)
    }

    fn text(&self) -> String {
        let Self { installation, index, count, placement } = self;
        format!("{installation} {index} {count} {placement}")
    }
}

/// Makes sure that these databases are one installation in this order, and records it when they are new.
pub(in crate::store) async fn enter(stores: &[&ServerStore]) -> Result<()> {
    let mut seats = Vec::with_capacity(stores.len());
    for store in stores {
        seats.push(read(store, stores.len() == 1).await?);
    }
    judge(stores, &seats)?;
    let recorded = seats.iter().flatten().next();
    let mut installation = match recorded {
        Some(seat) => seat.installation.clone(),
        None => format!("{:016x}", random_id()?),
    };
    for (index, store) in stores.iter().enumerate().rev() {
        let (count, placement) = (stores.len(), placement::VERSION);
        let ours = Seat { installation: installation.clone(), index, count, placement };
        let agreed = store.agree(NAME, ours.text().as_bytes()).await?;
        let agreed = decode(store, &agreed)?;
        if index + 1 == count && recorded.is_none() {
            // Another process may have started at the same time, and was earlier.
            installation.clone_from(&agreed.installation);
        }
        check(store, &agreed, &Seat { installation: installation.clone(), ..ours })?;
    }
    Ok(())
}

/// The record; a database that was used before there were records has everything.
async fn read(store: &ServerStore, is_alone: bool) -> Result<Option<Seat>> {
    match store.agreed(NAME).await? {
        Some(value) => decode(store, &value).map(Some),
        None if !is_alone && store.is_used().await? => Ok(Some(Seat {
            installation: format!("{:016x}", random_id()?),
            index: 0,
            count: 1,
            placement: placement::VERSION,
        })),
        None => Ok(None),
    }
}

fn decode(store: &ServerStore, value: &[u8]) -> Result<Seat> {
    let seat = std::str::from_utf8(value).ok().and_then(Seat::parse);
    seat.ok_or_else(|| {
        StoreError::Damaged(format!(
            "the row \"{NAME}\" of the table installation in {} cannot be read: restore it from a backup",
            store.place()
        ))
    })
}

fn judge(stores: &[&ServerStore], seats: &[Option<Seat>]) -> Result<()> {
    let recorded = seats.iter().flatten().next();
    for (index, (store, seat)) in stores.iter().zip(seats).enumerate() {
        if let (Some(seat), Some(first)) = (seat, recorded) {
            let (count, placement) = (stores.len(), placement::VERSION);
            let installation = first.installation.clone();
            check(store, seat, &Seat { installation, index, count, placement })?;
        }
    }
    if let [Some(_), rest @ ..] = seats
        && let Some(index) = rest.iter().position(Option::is_none)
    {
        return Err(StoreError::Damaged(format!(
            "{} is empty, but the installation has been in use with {} databases: correct entry {} of logic.store.urls, or restore that \
             database from a backup",
            stores[index + 1].place(),
            stores.len(),
            index + 2,
        )));
    }
    Ok(())
}

fn check(store: &ServerStore, found: &Seat, expected: &Seat) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let (place, count) = (store.place(), found.count);
    let what = if found.placement != expected.placement {
        format!(
            "{place} was divided by rule {} and this Roost has rule {}: start the version that wrote it",
            found.placement, expected.placement
        )
    } else if count == 1 && expected.count > 1 {
        format!(
            "{place} has everything of its installation, but logic.store.urls lists {} databases: what is stored cannot be divided; name \
             that database alone in logic.store.url, or list empty databases for a new installation",
            expected.count
        )
    } else if count != expected.count {
        format!(
            "{place} is one of {count} databases, but {} are configured: their number is fixed; list all {count} in their order in \
             logic.store.urls",
            expected.count
        )
    } else if found.index != expected.index {
        format!(
            "{place} is number {} of {count} databases, but stands at {} of logic.store.urls: put the URLs back in their order",
            found.index + 1,
            expected.index + 1
        )
    } else {
        format!(
            "{place} belongs to another installation than the first one of logic.store.urls: correct the list, or restore that database \
             from a backup of this installation"
        )
    };
    Err(StoreError::Damaged(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_written_and_read() {
        let seat = Seat { installation: "00ff".to_owned(), index: 1, count: 3, placement: 1 };
        assert_eq!(seat.text(), "00ff 1 3 1");
        assert_eq!(Seat::parse(&seat.text()), Some(seat));
        for text in ["", "00ff 1 3", "00ff 1 3 1 9", "00ff x 3 1"] {
            assert_eq!(Seat::parse(text), None, "{text:?}");
        }
    }
}
