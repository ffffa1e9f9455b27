//! The simulated REST APIs: all routes, and the middleware in the order in which a request passes it.

use axum::{
    Router,
    middleware::from_fn_with_state,
    routing::{MethodRouter, delete, get, patch, post},
};
use tower_http::catch_panic::CatchPanicLayer;

mod damage;
mod data;
mod middleware;
mod query;
mod shapes;
mod streaming;
mod v3;
mod webhooks;

use self::middleware::{RouteContext, error_envelope, route_middleware};
use crate::{control, fault::Operation, state::SimulatorState};

/// Returns all routes. A request passes the error envelope, the catcher of panics, then the route's own middleware
/// (open route, key, rate limit, faults), then its handler. The control interface has no route middleware.
pub(crate) fn router(state: &SimulatorState) -> Router {
    Router::new()
        .merge(conversation_routes(state))
        .merge(endpoint_routes(state))
        .merge(control::router())
        .layer(CatchPanicLayer::new())
        .layer(from_fn_with_state(state.scenario().envelope, error_envelope))
        .with_state(state.clone())
}

fn conversation_routes(state: &SimulatorState) -> Router<SimulatorState> {
    use Operation::{DataAudio, DataConversation, DataList, V3Audio, V3Conversation, V3List};

    let route = |operation, method| with_middleware(state, operation, method);
    let conversations = "/v3/{account}/{project}/conversations";
    let agents = "/v1/agents/{project}/conversations";
    Router::new()
        .route(conversations, route(V3List, get(v3::list)))
        .route(&format!("{conversations}/{{id}}"), route(V3Conversation, get(v3::get)))
        .route(&format!("{conversations}/{{id}}/audio"), route(V3Audio, get(v3::audio)))
        .route(agents, route(DataList, get(data::list)))
        .route(&format!("{agents}/{{id}}"), route(DataConversation, get(data::get)))
        .route(&format!("{agents}/{{id}}/audio"), route(DataAudio, get(data::audio)))
}

fn endpoint_routes(state: &SimulatorState) -> Router<SimulatorState> {
    use Operation::{
        EndpointCreate, EndpointDelete, EndpointGet, EndpointList, EndpointRotate, EndpointUpdate,
        QuickstartCreate, QuickstartManage,
    };

    let route = |operation, method| with_middleware(state, operation, method);
    let endpoints = "/v1/webhook-endpoints";
    let endpoint = format!("{endpoints}/{{id}}");
    let quickstart = "/v1/webhooks/endpoints";
    let quickstart_endpoint =
        get(webhooks::quickstart_get).patch(webhooks::quickstart_update).delete(webhooks::delete);
    Router::new()
        .route(endpoints, route(EndpointList, get(webhooks::list)))
        .route(endpoints, route(EndpointCreate, post(webhooks::create)))
        .route(&endpoint, route(EndpointGet, get(webhooks::get)))
        .route(&endpoint, route(EndpointUpdate, patch(webhooks::update)))
        .route(&endpoint, route(EndpointDelete, delete(webhooks::delete)))
        .route(&format!("{endpoint}/rotate-secret"), route(EndpointRotate, post(webhooks::rotate_secret)))
        .route(quickstart, route(QuickstartCreate, post(webhooks::quickstart_create)))
        .route(quickstart, route(QuickstartManage, get(webhooks::quickstart_list)))
        .route(&format!("{quickstart}/{{id}}"), route(QuickstartManage, quickstart_endpoint))
        .route(
            &format!("{quickstart}/{{id}}/rotate-secret"),
            route(QuickstartManage, post(webhooks::rotate_secret)),
        )
}

fn with_middleware(
    state: &SimulatorState,
    operation: Operation,
    method: MethodRouter<SimulatorState>,
) -> MethodRouter<SimulatorState> {
    let context = RouteContext { state: state.clone(), operation };
    method.route_layer(from_fn_with_state(context, route_middleware))
}
