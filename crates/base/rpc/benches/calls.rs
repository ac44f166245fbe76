//! What calls cost: single calls, pipelines, streams, and calls within the process.
//!
//! `cargo bench -p ratatosk-rpc` runs caller and server on a thread each, over loopback TCP without
//! TLS, echoing 256 bytes. A rate is over wall time; "CPU" is that of the whole process, both sides,
//! for one message. `-- --seconds N` changes how long each case runs, `-- --only TEXT` which ones do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ratatosk_rpc::{
    Call, ClusterId, Config, Environment, Error, Event, HostId, Hosting, Identity, MemoryDiscovery,
    Node, Permission, PipelineLimits, Receiver, Sender, ServerId, Target, Tenant, Version,
};
use ratatosk_rpc_example::{Amount, Ask, Parrot, ParrotClient, Phrase, Total, parrot_service};
use ratatosk_telemetry::metric::Registry;
use tokio::task::JoinSet;
use tokio::time::Instant;

const PAYLOAD: Bytes = Bytes::from_static(&[7; 256]);

struct Echo;

impl Parrot for Echo {
    async fn say(&self, _: Call, question: Phrase) -> Result<Phrase, Error> {
        Ok(question)
    }

    async fn add(&self, _: Call, question: Amount) -> Result<Total, Error> {
        Ok(Total { value: question.value, load: question.load })
    }

    async fn chatter(
        &self,
        _: Call,
        mut questions: Receiver<Ask>,
        answers: Sender<Phrase>,
    ) -> Result<(), Error> {
        let phrase = Phrase { words: PAYLOAD, tenant: String::new() };
        while let Some(Ask { phrases }) = questions.next().await {
            for _ in 0..phrases {
                if answers.send(phrase.clone()).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn main() {
    let argument = |name: &str| std::env::args().skip_while(|word| word != name).nth(1);
    let seconds = argument("--seconds").and_then(|text| text.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(2));
    let only = argument("--only").unwrap_or_default();
    let discovery = MemoryDiscovery::new();
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    let of_server = discovery.clone();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let node = node(&of_server, 1);
            let any = "127.0.0.1:0".parse().expect("an address");
            let listener = node.listen(any, None, Permission::Silent).await.expect("a port");
            let _served = serve(&node, "far");
            ready.send(()).expect("somebody waits");
            std::future::pending::<()>().await;
            drop(listener);
        });
    });
    is_ready.recv().expect("a server");
    runtime().block_on(async {
        let node = node(&discovery, 2);
        let client = ParrotClient::new(&node);
        let far = Target::Server(ServerId::new("far").expect("a name"));
        println!("{:<44} {:>12} {:>14}", "case", "messages/s", "CPU a message");
        let cases = Cases { client, only, time };
        cases.unary("unary, 1 in flight", &far, 1).await;
        cases.unary("unary, 64 in flight", &far, 64).await;
        cases.pipeline("pipeline, 256 in flight", &far, 1).await;
        cases.pipeline("pipeline, 256 in flight, loads of 64", &far, 64).await;
        cases.stream("stream, window of 64", &far).await;
        let _served = serve(&node, "near");
        let near = Target::Server(ServerId::new("near").expect("a name"));
        tokio::task::yield_now().await;
        cases.unary("unary in the process", &near, 1).await;
        cases.pipeline("pipeline in the process", &near, 1).await;
        cases.stream("stream in the process", &near).await;
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn node(discovery: &MemoryDiscovery, host: u128) -> Node {
    let identity = Identity {
        cluster: ClusterId(1),
        environment: Environment::new("bench").expect("a name"),
        host: HostId(host),
        version: Version::CURRENT,
    };
    Node::new(Config::new(identity), Arc::new(discovery.clone()), &Registry::new(1), 1)
}

fn serve(node: &Node, name: &str) -> ratatosk_rpc::Registration {
    let hosting = Hosting::new(ServerId::new(name).expect("a name"));
    node.serve(parrot_service(&Arc::new(Echo)), hosting).expect("room")
}

fn call() -> Call {
    Call::new(Tenant::new("tenant").expect("a name")).within(Duration::from_secs(10))
}

struct Cases {
    client: ParrotClient,
    only: String,
    time: Duration,
}

impl Cases {
    async fn unary(&self, name: &str, target: &Target, beside: usize) {
        if !name.contains(&self.only) {
            return;
        }
        let question = || Phrase { words: PAYLOAD, tenant: String::new() };
        self.client.say(call(), target, question()).await.expect("an answer");
        let meter = Meter::start();
        let mut callers = JoinSet::new();
        for _ in 0..beside {
            let (client, target, time) = (self.client.clone(), target.clone(), self.time);
            callers.spawn(async move {
                let began = Instant::now();
                let mut count = 0_u64;
                while began.elapsed() < time {
                    client.say(call(), &target, question()).await.expect("an answer");
                    count += 1;
                    tokio::task::coop::consume_budget().await;
                }
                count
            });
        }
        let counts = callers.join_all().await;
        meter.print(name, counts.iter().sum());
    }

    async fn pipeline(&self, name: &str, target: &Target, loads: usize) {
        if !name.contains(&self.only) {
            return;
        }
        let limits = PipelineLimits::default();
        let pipeline = self.client.add(call(), target.clone(), limits);
        let load = Bytes::from(PAYLOAD.repeat(loads));
        let question = || Amount { value: 1, load: load.clone() };
        pipeline.call(&call(), question()).await.expect("an answer");
        let meter = Meter::start();
        let began = Instant::now();
        let mut answers = std::collections::VecDeque::new();
        let mut count = 0_u64;
        while began.elapsed() < self.time {
            let call = call();
            while answers.len() < limits.in_flight_max {
                answers.push_back(pipeline.submit(&call, question()).expect("room"));
            }
            while answers.len() > limits.in_flight_max / 2 {
                answers.pop_front().expect("not empty").await.expect("an answer");
                count += 1;
            }
        }
        let messages = count * u64::try_from(loads).expect("few");
        meter.print(name, messages);
        for answer in answers {
            answer.await.expect("an answer");
        }
    }

    async fn stream(&self, name: &str, target: &Target) {
        if !name.contains(&self.only) {
            return;
        }
        let mut stream = self.client.chatter(Call::new(Tenant::none()), target.clone());
        let Some(Event::Opened { questions, .. }) = stream.next().await else {
            panic!("it does not open")
        };
        questions.send(Ask { phrases: u32::MAX }).await.expect("open");
        let meter = Meter::start();
        let began = Instant::now();
        let mut count = 0_u64;
        while !count.is_multiple_of(64) || began.elapsed() < self.time {
            let Some(Event::Message(_)) = stream.next().await else { panic!("it broke") };
            count += 1;
            tokio::task::coop::consume_budget().await;
        }
        meter.print(name, count);
    }
}

struct Meter {
    began: Instant,
    cpu: f64,
}

impl Meter {
    fn start() -> Self {
        Self { began: Instant::now(), cpu: cpu_seconds() }
    }

    fn print(&self, name: &str, count: u64) {
        let messages = count as f64;
        let rate = messages / self.began.elapsed().as_secs_f64();
        let cpu_us = (cpu_seconds() - self.cpu) * 1e6 / messages;
        println!("{name:<44} {rate:>12.0} {cpu_us:>11.2} us");
    }
}

/// What the process has used so far, in user and kernel mode; in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("a Linux system");
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}
