/** Only the client of undici is loaded: with fetch and all the rest it would take three times as long to start. */
declare module 'undici/lib/dispatcher/client.js' {
  import { Client } from 'undici';

  export = Client;
}
