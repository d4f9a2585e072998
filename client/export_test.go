// What tests of the package's users' kind need besides.

package client

// TakeOver is takeOver.
var TakeOver = takeOver
