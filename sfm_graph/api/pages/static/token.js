"use strict";

/**
 * The token of a page: asked for in the form `#access`, and kept until the browser's tab is closed.
 *
 * changed: called when there is another one, or none.
 */
function pageToken(changed) {
  const form = document.getElementById("access");
  const [input, status] = [form.querySelector("input"), form.querySelector("[role=status]")];
  const name = "sfm-graph:token";
  const known = () => sessionStorage.getItem(name);

  function show(text) {
    status.textContent = text;
    form.hidden = false;
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const token = input.value.trim().replace(/^bearer\s+/i, "");
    input.value = "";
    if (/[^!-~]/.test(token)) {
      show("No token has such characters.");
      return;
    }
    if (token) sessionStorage.setItem(name, token);
    else sessionStorage.removeItem(name);
    show(token ? "This token is used in all tabs here." : "No token is used.");
    changed();
  });
  if (known()) show("The token that was given before is used in all tabs here.");

  return {
    /** Headers with the token, unless they have an Authorization of their own. */
    headers(given) {
      const headers = new Headers(given);
      if (known() && !headers.has("authorization")) headers.set("authorization", `Bearer ${known()}`);
      return headers;
    },
    /** Ask for one, since the service refused to answer. */
    ask() {
      const wasHidden = form.hidden;
      show(known() ? "The service does not take this token." : "The service asks for a token.");
      if (wasHidden) input.focus();
    },
  };
}
