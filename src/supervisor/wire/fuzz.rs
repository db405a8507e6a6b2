//! The fuzz target of the protocol between daemon and supervisor.

use prost::Message as _;

use super::{
    Assembler, PROTOCOL_MAX, attach, container_plan, create_request, exit, facts, facts_message, pod_plan,
    process_message, process_plan, setup_request, v1,
};

/// One frame, as both sides read it: what is understood of it is sent as it was understood.
pub fn frames(input: &[u8]) {
    drop(Assembler::of(input).next::<v1::Request>());
    let _: Option<attach::FromClient<'_>> = attach::from_client(input);
    if let Ok(Some(message)) = Assembler::of(input).next::<v1::Message>()
        && let Some(v1::message::Body::Exited(exited)) = message.body
    {
        drop(exited.exit.map(exit));
    }
    let Some(body) = input.get(4..) else { return };
    if let Ok(message) = v1::Create::decode(body)
        && let Ok(plan) = container_plan(message)
        && let Ok(again) = create_request(&plan, PROTOCOL_MAX)
    {
        assert_eq!(container_plan(again).as_ref(), Ok(&plan));
    }
    if let Ok(message) = v1::Setup::decode(body)
        && let Ok((pod, dir, plan, cgroup)) = pod_plan(message)
    {
        let again = setup_request(&pod, &dir, &plan, &cgroup);
        assert_eq!(pod_plan(again), Ok((pod, dir, plan, cgroup)));
    }
    if let Ok(message) = v1::Process::decode(body) {
        let plan = process_plan(message);
        assert_eq!(process_plan(process_message(&plan)), plan);
    }
    if let Ok(message) = v1::ContainerFacts::decode(body)
        && let Ok(known) = facts(message)
    {
        assert_eq!(facts(facts_message(&known)), Ok(known));
    }
}
