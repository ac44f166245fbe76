//! What a local cluster is started with, and what keeps it from that.

use ratatosk_testkit::scratch::Scratch;

use super::*;

fn args(nodes: u16, folder: &Path) -> DevArgs {
    let set = vec![("log.level".to_owned(), "warn".to_owned())];
    DevArgs { nodes, data_dir: folder.to_owned(), free_ports: true, set }
}

#[test]
fn ports_can_be_told_beforehand() {
    let text: Vec<_> = (0..3)
        .map(Ports::fixed)
        .map(|Ports { mqtt, admin, gossip, calls }| format!("{mqtt} {admin} {gossip} {calls}"))
        .collect();
    assert_eq!(text, ["1883 18083 7883 7884", "1884 18084 7893 7894", "1885 18085 7903 7904"]);
    let mut all: Vec<u16> = (0..9)
        .map(Ports::fixed)
        .flat_map(|Ports { mqtt, admin, gossip, calls }| [mqtt, admin, gossip, calls])
        .collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 9 * 4);
}

#[test]
fn each_node_knows_all_and_a_single_one_waits_for_nobody() {
    let folder = Scratch::new("dev-plan");
    let nodes = nodes(&args(3, folder.path())).expect("nothing stands in its way");
    let join: Vec<_> = nodes.iter().map(|node| node.ports.gossip().to_string()).collect();
    for (place, node) in nodes.iter().enumerate() {
        let arguments = node.arguments("start");
        for wanted in [
            format!("cluster.join={}", join.join(",")),
            "cluster.expect=3".to_owned(),
            format!("listener.0.address={}", node.ports.mqtt()),
            format!("cluster.calls_address={}", node.ports.calls()),
            "log.level=warn".to_owned(),
            folder.path().join(format!("node-{}", place + 1)).display().to_string(),
        ] {
            assert!(arguments.contains(&wanted), "{wanted} in {arguments:?}");
        }
        assert!(node.line().starts_with("ratatosk start --config "), "{}", node.line());
    }
    assert!(folder.path().join("ratatosk.toml").is_file());
    let alone = super::nodes(&args(1, folder.path())).expect("nothing stands in its way");
    let arguments = alone[0].arguments("start").join(" ");
    assert!(!arguments.contains("cluster.join") && !arguments.contains("cluster.expect"));
    assert!(arguments.contains("cluster.name=dev"), "{arguments}");
}

#[test]
fn what_stands_in_the_way_is_said_before_anything_starts() {
    let folder = Scratch::new("dev-way");
    std::fs::create_dir_all(folder.path().join("node-5")).expect("a folder");
    let said = nodes(&args(3, folder.path())).expect_err("there were five").to_string();
    assert!(said.contains("has the data of 5 nodes") && said.contains("--nodes 5"), "{said}");
    assert!(!folder.path().join("ratatosk.toml").exists());
    let ports = [Ports::free().expect("are free"), Ports::free().expect("are free")];
    assert!(refuse_taken(&ports).is_ok());
    let _mqtt = TcpListener::bind(ports[0].mqtt()).expect("is free");
    let _gossip = UdpSocket::bind(ports[1].gossip()).expect("is free");
    let said = refuse_taken(&ports).expect_err("two are taken").to_string();
    let mqtt = format!("{}, for MQTT of node-1: ", ports[0].mqtt());
    let gossip = format!("{}, for the cluster of node-2: ", ports[1].gossip());
    assert!(said.contains(&mqtt) && said.contains(&gossip), "{said}");
    assert!(said.ends_with("start with --free-ports"), "{said}");
}

#[test]
fn the_welcome_can_be_pasted() {
    let node = |place: u16| Node {
        place: place.into(),
        name: name(place.into()),
        ports: Ports::fixed(place),
        configuration: "dev/ratatosk.toml".to_owned(),
        data_dir: "my data/node".to_owned(),
        settings: vec![("a".to_owned(), "it's".to_owned())],
    };
    let text = welcome(&[node(0), node(1), node(2)], &[71, 72, 73], Duration::from_millis(3_250));
    let expected = "
3 nodes are ready after 3.2 s:

  node-1  mqtt 127.0.0.1:1883  api http://127.0.0.1:18083  process 71
  node-2  mqtt 127.0.0.1:1884  api http://127.0.0.1:18084  process 72
  node-3  mqtt 127.0.0.1:1885  api http://127.0.0.1:18085  process 73

To see a message go from the first to the last:

  ratatosk sub -h 127.0.0.1 -p 1885 -t 'hello/#'
  ratatosk pub -h 127.0.0.1 -p 1883 -t hello/world -m hi
  ratatosk cluster status --api http://127.0.0.1:18083

Ctrl-C stops all.

";
    assert_eq!(text, expected);
    assert!(
        welcome(&[node(0)], &[71], Duration::ZERO).starts_with("\n1 node is ready after 0.0 s")
    );
    assert_eq!(
        node(0).line(),
        r"ratatosk start --config dev/ratatosk.toml --data-dir 'my data/node' --set 'a=it'\''s'"
    );
}
