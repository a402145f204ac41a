// Shows a button that prints the page. Without it people press Ctrl+P.
"use strict";
(() => {
  const button = document.getElementById("print");
  button.hidden = false;
  button.addEventListener("click", () => print());
})();
