// Runs before the first paint, so that a chosen theme never flashes the other one. A classic script, not a module.
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem("chatflow.theme");
  } catch {
    // Storage may be forbidden: use the system's theme.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
