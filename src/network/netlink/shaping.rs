//! Limits on what a link carries: a token bucket filter at its root (tc-tbf(8)), and an intermediate device (ifb) through
//! which what it receives is led, for only what a link sends can be kept waiting.

use futures_util::StreamExt as _;
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec,
    packet_core::{
        DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    },
    packet_route::{
        RouteNetlinkMessage,
        link::InfoKind,
        tc::{TcAttribute, TcHandle, TcMessage, TcOption},
    },
};

use super::{Error, Link, Netlink, ask, failed};
use crate::network::bandwidth::Bucket;

/// Attributes of `tbf` (linux/pkt_sched.h).
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// `TC_LINKLAYER_ETHERNET`: the kernel computes what a packet costs, without a table of ours.
const LINKLAYER_ETHERNET: u8 = 1;
/// `ETH_P_ALL` (linux/if_ether.h).
const EVERY_PROTOCOL: u16 = 3;
/// `ffff:`, the handle of a link's ingress qdisc.
const INGRESS: u32 = 0xffff_0000;

impl Netlink {
    /// Lets the link send no more than the bucket gives, instead of what it was limited to before.
    pub(in crate::network) async fn limit(&self, link: &Link, bucket: Bucket) -> Result<(), Error> {
        let mut message = TcMessage::with_index(index(link)?);
        message.header.parent = TcHandle::ROOT;
        message.attributes = vec![TcAttribute::Kind("tbf".into()), TcAttribute::Options(options(bucket))];
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let answer = async {
            let mut answers = self.0.clone().request(request)?;
            while let Some(answer) = answers.next().await {
                if let NetlinkPayload::Error(error) = answer.payload
                    && error.code.is_some()
                {
                    return Err(rtnetlink::Error::NetlinkError(error));
                }
            }
            Ok(())
        };
        ask("limit the bandwidth of", &link.name, answer).await
    }

    /// Makes an intermediate device, which is up.
    pub(in crate::network) async fn add_ifb(&self, name: &str, alias: &str, mtu: u32) -> Result<Link, Error> {
        let ifb =
            LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Ifb).name(name).mtu(mtu).up();
        ask("make intermediate device", name, self.0.link().add(ifb.build()).execute()).await?;
        // The kernel takes no alias of a link that is new.
        let marked = LinkUnspec::new_with_name(name).alias(alias).build();
        ask("mark intermediate device", name, self.0.link().set(marked).execute()).await?;
        self.new_link(name).await
    }

    /// Leads all that `from` receives through `by`, from where it goes on as if nothing had happened.
    pub(in crate::network) async fn lead(&self, from: &Link, by: &Link) -> Result<(), Error> {
        let number = index(from)?;
        let queue = self.0.qdisc().add(number).ingress().execute();
        ask("make the ingress queue of", &from.name, queue).await?;
        let filter = self.0.traffic_filter(number).add().parent(INGRESS).protocol(EVERY_PROTOCOL.to_be());
        let filter = filter
            .redirect(by.index)
            .map_err(|error| failed("lead what comes in by", &from.name, std::io::Error::other(error)))?;
        ask("lead what comes in by", &from.name, filter.execute()).await
    }
}

/// The kernel numbers links from 1 and has an `int` for that.
fn index(link: &Link) -> Result<i32, Error> {
    i32::try_from(link.index).map_err(|_| failed("find", &link.name, std::io::ErrorKind::InvalidData.into()))
}

fn options(bucket: Bucket) -> Vec<TcOption> {
    let option = |kind, value: &[u8]| TcOption::Other(DefaultNla::new(kind, value.to_vec()));
    vec![
        option(TCA_TBF_PARMS, &parameters(bucket)),
        option(TCA_TBF_RATE64, &bucket.rate_bytes.to_ne_bytes()),
        option(TCA_TBF_BURST, &bucket.burst_bytes.to_ne_bytes()),
    ]
}

/// `struct tc_tbf_qopt`: two `struct tc_ratespec` (the second, a peak, is not used), the queue's limit, and bucket and MTU
/// in ticks, which the attribute of the burst makes superfluous.
fn parameters(bucket: Bucket) -> [u8; 36] {
    let mut bytes = [0; 36];
    bytes[1] = LINKLAYER_ETHERNET;
    // What does not fit here is in the attribute of 64 bits.
    let rate = u32::try_from(bucket.rate_bytes).unwrap_or(u32::MAX);
    bytes[8..12].copy_from_slice(&rate.to_ne_bytes());
    bytes[24..28].copy_from_slice(&bucket.queue_bytes.to_ne_bytes());
    bytes
}
