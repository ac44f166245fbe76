//! Tenants are apart.

use std::sync::Arc;

use ratatosk_codec::{Publish, ReasonCode};
use ratatosk_conformance::{Broker, Connector, SettingsBy, Setup, Testament};
use ratatosk_contract::{TenantId, settings::SettingValue};

use crate::cases::{Case, QOS1, QOS2, assert_quiet};

fn of(tenant: &str, connector: Connector) -> Connector {
    connector.user(&format!("{tenant}/user"))
}

/// TEN-026, SEC-005: topics, sessions, retained messages, shared groups and wills of two tenants
/// never mix, by whatever way.
#[test]
fn nothing_of_a_tenant_reaches_another() {
    for case in Case::all(Setup::default) {
        // Persistent, with the same identifier as one of the other tenant.
        let (mut spy, mut victim, _guard) = case.pair(
            of("b", case.client("same").persistent()),
            of("a", case.client("same").persistent()),
        );
        for filter in ["#", "+/+", "secret/x", "$share/g/secret/x", "$oshare/g/#", "will", "a/#"] {
            spy.subscribe(filter, QOS2);
        }
        let mut member = of("a", case.client("member")).connect();
        let mut second = of("a", case.client("second")).connect();
        member.subscribe("$share/g/secret/x", QOS1);
        second.subscribe("will", QOS1);
        victim.subscribe("secret/x", QOS2);
        let mut publisher = of("a", case.client("publisher")).connect();
        for number in 0..10 {
            for qos in [QOS1, QOS2] {
                assert_eq!(publisher.deliver("secret/x", number.to_string(), qos).value(), 0);
                assert_eq!(member.message().text().parse(), Ok(number), "all, not a half");
                assert_eq!(victim.message().text().parse(), Ok(number), "{}", case.name);
            }
        }
        // What is retained, and what is cleared.
        publisher.retain("kept", "a's", QOS1);
        let mut other = of("b", case.client("other")).connect();
        other.publish_as(Publish { retain: true, ..Publish::new("kept", b"") });
        other.ping();
        spy.ping();
        // The spy got its own tenant's clearing message only, by each of its filters for it.
        for _ in 0..2 {
            assert_eq!(spy.message().text(), "", "{}", case.name);
        }
        other.subscribe("#", QOS1);
        assert_quiet(&mut other, &mut other_view(&case));
        let mut late = of("a", case.client("late")).connect();
        late.subscribe("kept", QOS1);
        assert_eq!(late.message().text(), "a's", "{}", case.name);
        // Wills.
        of("a", case.client("dying").will(Testament::new("will", "a's will"))).connect().vanish();
        assert_eq!(second.message().text(), "a's will");
        // Neither takes the other's session over, nor its queue.
        victim.disconnect(ReasonCode::Success);
        publisher.deliver("secret/x", "queued", QOS1);
        spy.ping();
        assert_quiet(&mut other, &mut spy);
        let (mut victim, welcome) = of("a", case.client("same").persistent()).welcome();
        assert!(welcome.is_present);
        assert_eq!(victim.message().text(), "queued", "{}", case.name);
        let tenants = ["a", "b"].map(TenantId::new);
        assert!(tenants.iter().all(|tenant| case.broker.session_dict.tenant_len(tenant) >= 1));
    }
}

/// A client of the spy's tenant that subscribes to everything after all is retained.
fn other_view(case: &Case) -> ratatosk_conformance::Client {
    let mut client = of("b", case.client("view")).connect();
    client.subscribe("#", QOS1);
    client
}

/// A tenant's own settings hold for its first connection, and for no other tenant.
#[test]
fn settings_of_a_tenant_are_its_own() {
    let overrides = SettingsBy::new(|tenant| match tenant {
        "small" => vec![("maximum_qos".to_owned(), Some(SettingValue::Number(0)))],
        _ => Vec::new(),
    });
    let broker = Broker::with(Setup { overrides: Arc::clone(&overrides) as _, ..Setup::default() });
    let mut small = of("small", broker.v5("c")).connect();
    let mut large = of("large", broker.v5("c")).connect();
    large.deliver("t", "x", QOS2);
    large.ping();
    small.publish("t", "x", QOS1);
    small.expect_farewell(ReasonCode::QosNotSupported);
}
