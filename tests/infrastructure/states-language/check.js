// check.js FILE...: prints what AWS's language service finds in definitions, as JSON: a list of
// {file, line, message}.
const fs = require('fs')
const { getLanguageService } = require('amazon-states-language-service')
const { TextDocument } = require('vscode-languageserver-textdocument')

async function findings(file) {
  const service = getLanguageService({})
  const document = TextDocument.create(`file://${file}`, 'asl', 1, fs.readFileSync(file, 'utf8'))
  const diagnostics = await service.doValidation(document, service.parseJSONDocument(document))
  return diagnostics.map((each) => ({ file, line: each.range.start.line + 1, message: each.message }))
}

Promise.all(process.argv.slice(2).map(findings)).then((found) => console.log(JSON.stringify(found.flat())))
