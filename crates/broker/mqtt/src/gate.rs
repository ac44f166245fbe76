//! Who a client is: between what a session asks and what the providers answer.

use std::{net::SocketAddr, sync::Arc};

use ratatosk_codec::ReasonCode;
use ratatosk_contract::TenantId;
use ratatosk_plugin::{
    answer::Answer,
    auth::{AuthRequest, AuthResult, AuthStage, ConnectionId, DenialReason, Grant as PluginGrant},
    host::Host,
    permission::{Action, Identity, Verdict},
    secret::Secret,
};
use ratatosk_session::{Credentials, Denial, Grant};

use crate::{acceptor::Listener, shard::connection::Local};

/// What was decided.
pub(crate) enum Decision {
    /// Let in.
    Granted { grant: Box<Grant>, identity: Identity },
    /// One more round.
    Continue { data: Vec<u8> },
    /// Not let in.
    Denied(Denial),
}

/// A client that wants to be let in.
pub(crate) struct Asked<'a> {
    pub(crate) credentials: Credentials,
    pub(crate) peer: SocketAddr,
    pub(crate) listener: &'a Listener,
    pub(crate) certificate: Option<&'a [u8]>,
    pub(crate) connection: u64,
    /// Who it is already, when it authenticates again.
    pub(crate) identity: Option<&'a Identity>,
}

/// Asks the authentication provider.
pub(crate) fn authenticate(host: &Host, asked: Asked<'_>, local: &mut Local) -> Answer<Decision> {
    let credentials = asked.credentials;
    let stage = match asked.identity {
        Some(identity) if credentials.is_again => AuthStage::Reauthenticate(identity.clone()),
        _ => AuthStage::Connect,
    };
    let client_id: Arc<str> = credentials.client_id.into();
    let request = AuthRequest {
        version: credentials.version,
        client_id: Arc::clone(&client_id),
        username: credentials.username.map(Into::into),
        password: credentials.password.map(Secret::new),
        certificate: asked.certificate.map(Into::into),
        peer: asked.peer,
        listener: Arc::clone(&asked.listener.name),
        connection: ConnectionId(asked.connection),
        user_properties: credentials.user_properties,
        wants_response_information: true,
        method: credentials.method.map(Into::into),
        data: credentials.data.clone().map(Secret::new),
        stage,
    };
    let host_of = host.clone();
    if request.method.is_some() {
        let mut exchange = host.begin(&request);
        let first = exchange.step(&credentials.data.unwrap_or_default());
        local.rare().exchange = Some(exchange);
        local.rare().client_id = Some(Arc::clone(&client_id));
        return conclude(&host_of, first, client_id);
    }
    conclude(&host_of, host.authenticate(request), client_id)
}

/// Hands on the client's next step of an exchange.
pub(crate) fn exchange(host: &Host, data: &[u8], local: &mut Local) -> Answer<Decision> {
    let rare = local.rare();
    let client_id = rare.client_id.clone().unwrap_or_else(|| Arc::from(""));
    match &mut rare.exchange {
        Some(exchange) => {
            let step = exchange.step(data);
            conclude(host, step, client_id)
        }
        None => Answer::Now(Decision::Denied(Denial {
            code: ReasonCode::BadAuthenticationMethod,
            detail: "no exchange is running".to_owned(),
        })),
    }
}

/// Settings and the permission to connect follow the authentication.
fn conclude(host: &Host, answer: Answer<AuthResult>, client_id: Arc<str>) -> Answer<Decision> {
    match answer {
        Answer::Now(AuthResult::Granted(grant)) => admit(host, grant, client_id),
        Answer::Now(result) => Answer::Now(refused(result)),
        Answer::Later(later) => {
            let host = host.clone();
            Answer::later(async move {
                match later.await {
                    AuthResult::Granted(grant) => admit(&host, grant, client_id).wait().await,
                    result => refused(result),
                }
            })
        }
    }
}

fn refused(result: AuthResult) -> Decision {
    match result {
        AuthResult::Continue(challenge) => Decision::Continue { data: challenge.data },
        AuthResult::Denied(denial) => Decision::Denied(Denial {
            code: code(denial.reason),
            detail: denial.detail.into_owned(),
        }),
        AuthResult::Granted(_) | AuthResult::Abstained => Decision::Denied(Denial {
            code: ReasonCode::NotAuthorized,
            detail: "no provider knows this client".to_owned(),
        }),
    }
}

/// MQTT-021
fn code(reason: DenialReason) -> ReasonCode {
    match reason {
        DenialReason::BadPassword => ReasonCode::BadUsernameOrPassword,
        DenialReason::NotAuthorized => ReasonCode::NotAuthorized,
        DenialReason::Banned => ReasonCode::Banned,
        DenialReason::BadMethod => ReasonCode::BadAuthenticationMethod,
        DenialReason::Error => ReasonCode::UnspecifiedError,
    }
}

fn admit(host: &Host, grant: PluginGrant, client_id: Arc<str>) -> Answer<Decision> {
    let identity = Identity {
        tenant: grant.tenant.as_str().into(),
        user: grant.user.as_str().into(),
        client_id,
        attributes: grant.attributes.clone().into(),
        superuser: grant.superuser,
    };
    // MQTT-022
    let permitted = host.check(&identity, Action::Connect);
    let settings = host.settings(&grant.tenant);
    let decide = move |verdict: Verdict, settings| match verdict {
        Verdict::Allowed => Decision::Granted {
            grant: Box::new(Grant {
                tenant: TenantId::new(&grant.tenant),
                user: (!grant.user.is_empty()).then(|| grant.user.as_str().into()),
                settings,
                response_information: grant.response_information,
                user_properties: grant.user_properties,
                data: grant.auth_data,
            }),
            identity,
        },
        Verdict::Denied { reason } => Decision::Denied(Denial {
            code: ReasonCode::NotAuthorized,
            detail: format!("not permitted to connect: {reason}"),
        }),
        Verdict::Error { reason } => Decision::Denied(Denial {
            code: ReasonCode::UnspecifiedError,
            detail: format!("the permission to connect could not be determined: {reason}"),
        }),
    };
    match (permitted, settings) {
        (Answer::Now(verdict), Answer::Now(settings)) => Answer::Now(decide(verdict, settings)),
        (permitted, settings) => Answer::later(async move {
            let verdict = permitted.wait().await;
            decide(verdict, settings.wait().await)
        }),
    }
}
