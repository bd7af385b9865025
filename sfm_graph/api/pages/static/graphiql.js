"use strict";

const endpoint = new URL("graphql", location.href);
const socket = new URL(endpoint);
socket.protocol = location.protocol === "https:" ? "wss:" : "ws:";

async function open() {
  const answer = await fetch("static/operations.json");
  const tabs = answer.ok ? await answer.json() : [];
  // GraphiQL keeps the visitor's own tabs; the examples are for the first visit.
  const first = localStorage.getItem("graphiql:tabState") === null ? tabs[0] : undefined;
  const root = ReactDOM.createRoot(document.getElementById("graphiql"));
  root.render(
    React.createElement(GraphiQL, {
      fetcher: GraphiQL.createFetcher({ url: endpoint.pathname, subscriptionUrl: socket.href }),
      defaultTabs: tabs.length ? tabs : undefined,
      variables: first?.variables ?? undefined, // it takes the open tab's query from defaultTabs, not its variables
      defaultEditorToolsVisibility: true,
      plugins: [GraphiQLPluginExplorer.explorerPlugin()],
    }),
  );
}

open();
