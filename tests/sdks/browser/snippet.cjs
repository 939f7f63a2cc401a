// Writes the snippet that Segment gives to its customers, but for the site that has analytics.min.js.
const { min } = require("@segment/snippet");
require("fs").writeFileSync(process.argv[2], min({ host: "SITE", ajsPath: "/analytics.min.js", page: false, load: false }));
