"use strict";

const UNAUTHENTICATED = 401;
const FORBIDDEN_SOCKET = 4403;
const endpoint = new URL("graphql", location.href);
endpoint.search = "";
const socket = new URL(endpoint);
socket.protocol = location.protocol === "https:" ? "wss:" : "ws:";

/** What GraphiQL sends operations with: the page's token goes along, and is asked for when it is missing. */
function fetcherWith(token) {
  async function asked(url, options) {
    const answer = await fetch(url, { ...options, headers: token.headers(options.headers) });
    if (answer.status === UNAUTHENTICATED) token.ask();
    return answer;
  }
  return (operation, options) => {
    const payload = Object.fromEntries(token.headers(options?.headers));
    const wsClient = graphqlSocket(socket.href, payload, (code) => code === FORBIDDEN_SOCKET && token.ask());
    return GraphiQL.createFetcher({ url: endpoint.pathname, fetch: asked, wsClient })(operation, options);
  };
}

async function open() {
  const answer = await fetch("static/operations.json");
  const tabs = answer.ok ? await answer.json() : [];
  // GraphiQL keeps the visitor's own tabs; the examples are for the first visit.
  const first = localStorage.getItem("graphiql:tabState") === null ? tabs[0] : undefined;
  const root = ReactDOM.createRoot(document.getElementById("graphiql"));
  const plugins = [GraphiQLPluginExplorer.explorerPlugin()];
  const token = pageToken(render);

  // With another fetcher GraphiQL asks for the schema again.
  function render() {
    root.render(
      React.createElement(GraphiQL, {
        fetcher: fetcherWith(token),
        defaultTabs: tabs.length ? tabs : undefined,
        variables: first?.variables ?? undefined, // it takes the open tab's query from defaultTabs, not its variables
        defaultEditorToolsVisibility: true,
        plugins,
      }),
    );
  }
  render();
}

open();
