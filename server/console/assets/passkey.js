// Passes passkey challenges to the browser and the answers back. Pages work without it, with a password.
"use strict";
(() => {
  const bytes = s => Uint8Array.from(atob(s.replace(/-/g, "+").replace(/_/g, "/")), c => c.charCodeAt(0));
  const text = b => btoa(String.fromCharCode(...new Uint8Array(b))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  const post = async (path, data) => {
    const r = await fetch(path, { method: "POST", credentials: "same-origin", body: data ? JSON.stringify(data) : null });
    if (!r.ok || !(r.headers.get("Content-Type") || "").startsWith("application/json")) throw new Error("refused");
    return r.json();
  };
  const wire = c => ({
    id: c.id, type: c.type, rawId: text(c.rawId),
    authenticatorAttachment: c.authenticatorAttachment || undefined,
    clientExtensionResults: c.getClientExtensionResults(),
    response: Object.fromEntries(["clientDataJSON", "attestationObject", "authenticatorData", "signature", "userHandle"]
      .filter(k => c.response[k]).map(k => [k, text(c.response[k])])),
  });
  const open = list => (list || []).map(c => ({ ...c, id: bytes(c.id) }));
  const add = async () => {
    const { publicKey: o } = await post("/account/passkey/begin");
    o.challenge = bytes(o.challenge);
    o.user.id = bytes(o.user.id);
    o.excludeCredentials = open(o.excludeCredentials);
    return post("/account/passkey/finish", wire(await navigator.credentials.create({ publicKey: o })));
  };
  const signIn = async () => {
    const { publicKey: o } = await post("/passkey/signin/begin");
    o.challenge = bytes(o.challenge);
    o.allowCredentials = open(o.allowCredentials);
    return post("/passkey/signin/finish", wire(await navigator.credentials.get({ publicKey: o })));
  };
  for (const [id, run] of [["passkey-add", add], ["passkey-signin", signIn]]) {
    const button = document.getElementById(id);
    if (!button || !window.PublicKeyCredential) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      const failed = document.getElementById("passkey-failed");
      failed.hidden = true;
      button.disabled = true;
      try { location.assign((await run()).next); } catch { failed.hidden = false; button.disabled = false; }
    });
  }
})();
