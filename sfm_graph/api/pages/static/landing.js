"use strict";

for (const origin of document.querySelectorAll(".origin")) {
  origin.textContent = new URL(".", location.href).href.replace(/\/$/, "");
}

// Browsers give the clipboard to https and to localhost only; elsewhere the text is selected by hand.
for (const button of navigator.clipboard ? document.querySelectorAll(".example button") : []) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
}
